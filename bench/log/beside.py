# SPDX-License-Identifier: Apache-2.0
"""A gateway under full load, and the logger beside it."""

import asyncio
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.busy import Others
from bench.gateway import load, upstream
from bench.gateway.peers import OTHER_CORE, Candidate, free_port, millrace, process, wait_for
from contract.errors import Overloaded
from contract.settings import Settings, load_settings
from logger.client import LoggerClient

CONNECTIONS, BODY = 32, load.request(260, False)


def beside(folder: Path, rounds: int, seconds: int, others: Others) -> dict[str, float]:
    """Requests a second with the logger stopped and with it at work, in turn, round after round; medians.

    ``kept`` is the share of its throughput that is left beside the logger, ``cpu`` what a request then costs times what
    it costs without, ``taken`` the records a second that the logger takes meanwhile.

    The gateway has one core, the load, the upstream and the logger the other. The logger meets what was written while
    it was stopped, so it has more to do than the gateway gives it at the time.
    """
    port, runs, taken = free_port(), dict[bool, list[load.Run]]({False: [], True: []}), list[float]()
    nginx = ["nginx", "-c", str(upstream.nginx_config(folder, port)), "-p", str(folder)]
    with (
        process(nginx, OTHER_CORE, folder / "nginx"),
        millrace({upstream.MODEL: port}, folder) as gateway,
        _logger(folder) as logger,
    ):
        wait_for(gateway, BODY, folder / "log")
        load.run(gateway, BODY, CONNECTIONS, 1, folder)  # warm
        for number in range(rounds):
            for at_work in (False, True) if number % 2 else (True, False):  # neither always comes first
                logger.process.pause(stopped=not at_work)
                before = logger.cursor() if at_work else 0
                run = load.run(gateway, BODY, CONNECTIONS, seconds, folder)
                if run.failed:
                    raise SystemExit(f"{run.failed} of {run.requests} requests failed; see {folder / 'log'}")
                if at_work:
                    taken.append((logger.cursor() - before) / run.seconds)
                runs[at_work].append(run)
                others.check()
        logger.process.pause(stopped=False)
    # Round by round: what else the machine does changes from one to the next.
    pairs = list(zip(runs[True], runs[False], strict=True))
    return {
        "alone": statistics.median(run.rate for run in runs[False]),
        "beside": statistics.median(run.rate for run in runs[True]),
        "kept": statistics.median(on.rate / off.rate for on, off in pairs),
        "cpu": statistics.median(on.cpu_per_request / off.cpu_per_request for on, off in pairs),
        "taken": statistics.median(taken),
    }


@dataclass(frozen=True)
class Logger:
    """The process, and where it answers."""

    process: Candidate
    settings: Settings

    def cursor(self) -> int:
        """Rows that it has taken."""
        return int(asyncio.run(self._health())["cursor"])

    async def _health(self) -> dict[str, Any]:
        async with LoggerClient(self.settings.log.url, self.process.key) as client:
            return await client.health()


@contextmanager
def _logger(folder: Path) -> Iterator[Logger]:
    config = folder / "millrace.yaml"
    settings = load_settings(config)
    token = settings.installation.token("logger")
    command = [sys.executable, "-m", "millrace", "serve", "logger", "--config", str(config)]
    with process(command, OTHER_CORE, folder / "logger.log") as started:
        logger = Logger(Candidate("logger", settings.log.port, token, started), settings)
        deadline = time.monotonic() + 60
        while True:
            try:
                logger.cursor()
                break
            except Overloaded:
                if time.monotonic() > deadline:
                    raise SystemExit(
                        f"the logger does not answer: {(folder / 'logger.log').read_text()[-2000:]}"
                    ) from None
            time.sleep(0.1)
        yield logger
