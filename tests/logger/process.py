# SPDX-License-Identifier: Apache-2.0
"""A real logger in a process of its own, that may be told to die at a fault point.

``python -m tests.logger.process SETTINGS.yaml ROLE [POINT COUNT]`` is what runs there.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from contract.errors import Overloaded
from contract.settings import Settings, load_settings
from logger.client import LoggerClient

ROOT = Path(__file__).parents[2]


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


class Logger:
    """One start of `millrace serve logger`."""

    started: ClassVar[list["Logger"]] = []

    def __init__(
        self,
        folder: Path,
        *,
        role: str = "both",
        die_at: tuple[str, int] | None = None,
        log: Mapping[str, str] = {},
        data: Path | str = "data",
    ) -> None:
        """Starts it over ``folder``; ``log`` holds further lines of the `log` section, ``data`` the data_dir."""
        folder.mkdir(exist_ok=True)
        self.file = folder / "millrace.yaml"
        if not self.file.exists():
            lines = [f"data_dir: {data}", "log:", f"  port: {free_port()}", *(f"  {k}: {v}" for k, v in log.items())]
            self.file.write_text("\n".join(lines) + "\n")
        self.settings: Settings = load_settings(self.file)
        arguments = [*(die_at or ())]
        self.output = (folder / f"logger-{time.monotonic_ns()}.log").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.logger.process", str(self.file), role, *map(str, arguments)],
            cwd=ROOT, stdout=self.output, stderr=subprocess.STDOUT,
        )  # fmt: skip

        Logger.started.append(self)

    @property
    def token(self) -> str:
        return self.settings.installation.token("logger")

    def wait(self) -> int:
        """Its exit status, once it is gone by itself."""
        return self.process.wait(100)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait(10)
        self.output.close()

    def stop(self) -> int:
        """SIGTERM; its exit status."""
        self.process.terminate()
        status = self.process.wait(60)
        self.output.close()
        return status

    def health(self) -> dict[str, Any]:
        """Its report; empty while it does not answer."""

        async def ask() -> dict[str, Any]:
            async with LoggerClient(self.settings.log.url, self.token) as client:
                return await client.health()

        assert self.process.poll() is None, self.said()
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
            if logger.process.poll() is None:
                logger.kill()
            logger.output.close()
        del cls.started[known:]

    def said(self) -> str:
        """What it printed so far."""
        return Path(self.output.name).read_text()


def _die_at(point: str, count: int) -> Callable[[str], None]:
    left = [count]

    def reach(reached: str) -> None:
        left[0] -= reached == point
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return reach


if __name__ == "__main__":
    import logging

    from contract.errors import OperatorError
    from logger.service import serve
    from logger.stage import nowhere

    logging.basicConfig(level=logging.INFO)
    given = sys.argv[3:]
    try:
        serve(load_settings(Path(sys.argv[1])), sys.argv[2], _die_at(given[0], int(given[1])) if given else nowhere)  # type: ignore[arg-type]  # a role by its name
    except OperatorError as error:
        raise SystemExit(f"millrace: {error.message}") from None
