# SPDX-License-Identifier: Apache-2.0
"""Runs one job at a time as a child process and says what became of it."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from contract.installation import Installation
from trainer import jobs
from trainer.jobs import Job, JobState
from trainer.run import HELD

MAX_KILLS = 5
"""How often in a row a job's process may be killed before the job is given up."""
TAIL_LINES = 20
STOP_SECONDS = 20.0

log = logging.getLogger(__name__)


@dataclass
class Worker:
    """At most one child. ``command`` starts a job's process: its id is added at the end."""

    database: sa.Engine
    installation: Installation
    command: Sequence[str]
    _child: asyncio.subprocess.Process | None = None
    _job: str = ""
    _kills: dict[str, int] = field(default_factory=dict)

    @property
    def busy(self) -> bool:
        """Whether a child runs."""
        return self._child is not None and self._child.returncode is None

    def log_file(self, job: str) -> Path:
        """Where a job's process prints."""
        return self.installation.jobs / job / "job.log"

    async def start(self, job: Job) -> None:
        """Starts the job's process, or starts it again where it was killed."""
        file = self.log_file(job.id)
        file.parent.mkdir(parents=True, exist_ok=True)
        environment = {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            # Spinning threads would take the cores from the engine and the gateway while they wait for each other.
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        with file.open("ab") as output:
            self._child = await asyncio.create_subprocess_exec(
                *self.command, job.id, stdout=output, stderr=asyncio.subprocess.STDOUT, env=environment,
                start_new_session=True,
            )  # fmt: skip
        self._job = job.id
        log.info("job %s runs as process %s; it prints to %s", job.id, self._child.pid, file)

    async def reap(self) -> int | None:
        """The exit code of a child that ended since the last call, after its job was looked after; else None."""
        if self._child is None or self._child.returncode is None:
            return None
        code, self._child = self._child.returncode, None
        if code == 0 or code == HELD:
            self._kills.pop(self._job, None)
        elif code < 0:
            self._killed(-code)
        else:
            self._fail(f"its process ended with code {code}")
        return code

    async def stop(self) -> None:
        """Stops the child; its job stays running in the database and is resumed by the next trainer."""
        if self._child is None or self._child.returncode is not None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, number)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._child.wait(), STOP_SECONDS)
                return

    def _killed(self, number: int) -> None:
        self._kills[self._job] = self._kills.get(self._job, 0) + 1
        name = signal.Signals(number).name
        log.warning("job %s: its process was killed by %s (%s times)", self._job, name, self._kills[self._job])
        if self._kills[self._job] >= MAX_KILLS:
            self._fail(f"its process was killed {MAX_KILLS} times, last by {name} (out of memory?)")

    def _fail(self, what: str) -> None:
        """Fails the job where its process did not do that itself."""
        with self.database.begin() as connection:
            job = jobs.get(connection, self._job)
            if job is not None and job.status is JobState.RUNNING:
                jobs.fail(connection, self._job, f"{what}; the end of its log:\n{tail(self.log_file(self._job))}")


def tail(file: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a text file; empty where there is none."""
    if not file.exists():
        return ""
    return "\n".join(file.read_text(errors="replace").splitlines()[-lines:])


def default_command(config: Path, overrides: Sequence[str]) -> list[str]:
    """`python -m trainer.run --config … [--set …]`."""
    sets = [part for override in overrides for part in ("--set", override)]
    return [sys.executable, "-m", "trainer.run", "--config", str(config), *sets]
