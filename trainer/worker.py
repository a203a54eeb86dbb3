# SPDX-License-Identifier: Apache-2.0
"""Runs one job at a time as a child process and says what became of it."""

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from contract.installation import Installation
from trainer import jobs
from trainer.jobs import Job, JobState
from trainer.run import LATER

MAX_DEATHS = 5
"""How often in a row a job's process may be killed, or end before it took the job, before the job is given up."""
LATER_SECONDS = 5.0
MAX_LATER_SECONDS = 300.0
"""How long a job rests that its process left for later: doubled each time, from the first to the second."""
_PR_SET_PDEATHSIG = 1
TAIL_LINES = 20
STOP_SECONDS = 20.0

log = logging.getLogger(__name__)


@dataclass
class Worker:
    """At most one child. ``command`` starts a job's process: its id is added at the end."""

    database: sa.Engine
    installation: Installation
    command: Sequence[str]
    clock: Callable[[], float] = time.monotonic
    _child: asyncio.subprocess.Process | None = None
    _job: str = ""
    _deaths: dict[str, int] = field(default_factory=dict)
    _rests: dict[str, tuple[float, float]] = field(default_factory=dict)
    """By job: when it may be worked on again, and for how long it rested."""

    @property
    def busy(self) -> bool:
        """Whether a child runs."""
        return self._child is not None and self._child.returncode is None

    def rests(self, job: Job) -> bool:
        """Whether the job was left for later, and it is not later yet."""
        return job.id in self._rests and self.clock() < self._rests[job.id][0]

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
                start_new_session=True, preexec_fn=_die_with_parent,
            )  # fmt: skip
        self._job = job.id
        log.info("job %s runs as process %s; it prints to %s", job.id, self._child.pid, file)

    async def reap(self) -> int | None:
        """The exit code of a child that ended since the last call, after its job was looked after; else None."""
        if self._child is None or self._child.returncode is None:
            return None
        code, self._child = self._child.returncode, None
        if code == LATER:
            self._rest()
        elif code != 0:
            self._died(f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}", code)
        if code in (0, LATER):
            self._deaths.pop(self._job, None)
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

    def _rest(self) -> None:
        _, before = self._rests.get(self._job, (0.0, 0.0))
        seconds = min(MAX_LATER_SECONDS, 2 * before or LATER_SECONDS)
        self._rests[self._job] = (self.clock() + seconds, seconds)
        log.warning("job %s is left for %.0f s: %s", self._job, seconds, tail(self.log_file(self._job), 1))

    def _died(self, how: str, code: int) -> None:
        """Fails the job where its process did not do that itself, and starting it again does not help."""
        deaths = self._deaths[self._job] = self._deaths.get(self._job, 0) + 1
        log.warning("job %s: its process %s (%s times)", self._job, how, deaths)
        with self.database.begin() as connection:
            job = jobs.get(connection, self._job)
            if job is None or job.status not in (JobState.RUNNING, JobState.QUEUED):
                return
            claimed_and_broke = code > 0 and job.status is JobState.RUNNING
            if claimed_and_broke or deaths >= MAX_DEATHS:
                how += f" (the last of {deaths} times; out of memory?)" if code < 0 else ""
                reason = f"its process {how}; the end of its log:\n{tail(self.log_file(self._job))}"
                jobs.fail(connection, self._job, reason)


def tail(file: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a text file; empty where there is none."""
    if not file.exists():
        return ""
    return "\n".join(file.read_text(errors="replace").splitlines()[-lines:])


def _die_with_parent() -> None:
    # A service that was killed is followed by one that starts the job again: two would write into one folder.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def default_command(config: Path, overrides: Sequence[str]) -> list[str]:
    """`python -m trainer.run --config … [--set …]`."""
    sets = [part for override in overrides for part in ("--set", override)]
    return [sys.executable, "-m", "trainer.run", "--config", str(config), *sets]
