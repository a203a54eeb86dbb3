# SPDX-License-Identifier: Apache-2.0
"""A real logger in a process of its own, that may be told to die at a fault point.

Such a process is forked from one that has imported what takes long (`tests.logger.preloaded`) and no line of the
logger: it starts in a fraction of the time, and reads `MILLRACE_FAULT` from its environment as any other does.
"""

import asyncio
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, ClassVar

from contract.errors import OperatorError, Overloaded
from contract.settings import Settings, load_settings
from logger.client import LoggerClient

ROOT = Path(__file__).parents[2]
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.logger.preloaded"])


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until(condition: Callable[[], bool], seconds: float = 90.0, what: str = "the condition") -> None:
    """Polls until ``condition`` holds; fails after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true in {seconds} s"
        time.sleep(0.01)


def fork(target: Callable[..., None], *arguments: Any, output: Path, fault: str | None = None) -> ForkServerProcess:
    """Starts ``target(*arguments)`` in a process of its own, with what it prints in a file and a fault armed."""
    process = FORKS.Process(target=_begin, args=(target, arguments, output, fault), daemon=True)
    process.start()
    return process


def _begin(target: Callable[..., None], arguments: tuple[Any, ...], output: Path, fault: str | None) -> None:
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    assert "logger.faults" not in sys.modules
    if fault is not None:
        os.environ["MILLRACE_FAULT"] = fault
    target(*arguments)


class Logger:
    """One start of `millrace serve logger`."""

    started: ClassVar[list["Logger"]] = []

    def __init__(
        self,
        folder: Path,
        *,
        role: str = "both",
        fault: str | None = None,
        log: Mapping[str, str] = {},
        data: Path | str = "data",
        hasty: bool = False,
    ) -> None:
        """Starts it over ``folder``.

        Args:
            folder: of its settings file.
            role: as of `millrace serve logger --role`.
            fault: ``POINT:COUNT``, where it is to die.
            log: further lines of the `log` section.
            data: the data_dir.
            hasty: what it does once in a while, it does often.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "millrace.yaml"
        if not self.file.exists():
            lines = [f"data_dir: {data}", "log:", f"  port: {free_port()}", *(f"  {k}: {v}" for k, v in log.items())]
            self.file.write_text("\n".join(lines) + "\n")
        self.settings: Settings = load_settings(self.file)
        self.output = folder / f"logger-{time.monotonic_ns()}.log"
        self.process = fork(_serve, self.file, role, hasty, output=self.output, fault=fault)
        Logger.started.append(self)

    @property
    def token(self) -> str:
        return self.settings.installation.token("logger")

    @property
    def lives(self) -> bool:
        """Whether it runs."""
        return self.process.is_alive()

    def wait(self, seconds: float = 100) -> int:
        """Its exit status, once it is gone by itself; below 0, the signal that it died of."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, f"it still runs after {seconds} s: {self.said()}"
        return self.process.exitcode

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.wait()

    def stop(self) -> int:
        """SIGTERM; its exit status."""
        self.process.terminate()
        return self.wait(60)

    def health(self) -> dict[str, Any]:
        """Its report; empty while it does not answer."""

        async def ask() -> dict[str, Any]:
            async with LoggerClient(self.settings.log.url, self.token) as client:
                return await client.health()

        assert self.lives, self.said()
        try:
            return asyncio.run(ask())
        except Overloaded:
            return {}

    def errors(self) -> dict[str, str]:
        """What holds it up, by producer, partition, store or broker."""
        return {row["producer"]: row["error"] for row in self.health().get("producers", []) if row["error"]}

    @classmethod
    def end_those_after(cls, known: int) -> None:
        """Ends what a failed test left running: everything started after the first ``known``."""
        for logger in cls.started[known:]:
            if logger.lives:
                logger.kill()
            logger.process.close()
        del cls.started[known:]

    def said(self) -> str:
        """What it printed so far."""
        return self.output.read_text() if self.output.exists() else ""


def _serve(file: Path, role: str, hasty: bool) -> None:
    import logging

    from logger.service import serve

    logging.basicConfig(level=logging.INFO)
    if hasty:
        _hasten()
    try:
        serve(load_settings(file), role)  # a role by its name
    except OperatorError as error:
        raise SystemExit(f"millrace: {error.message}") from None


def _hasten() -> None:
    from logger import consume, ingest, kafka, ship

    ingest.CHECKPOINT_SECONDS = consume.CHECKPOINT_SECONDS = ship.SAVE_SECONDS = 0.05
    ingest.IDLE_SECONDS = ship.IDLE_SECONDS = 0.001
    kafka.RETRY_SECONDS = (0.01,)
