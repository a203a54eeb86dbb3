# SPDX-License-Identifier: Apache-2.0
"""Keeps child processes alive: starts them in order, waits until each is ready, restarts what dies, stops in reverse.

A child is the leader of a process group of its own, so that Ctrl-C in a terminal reaches the supervisor alone and
stopping a child stops what it started. Where the supervisor itself is killed, the kernel ends its children
(PR_SET_PDEATHSIG).
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import yarl

from contract.errors import OperatorError

_PR_SET_PDEATHSIG = 1
_TAIL_BYTES = 6000
_HEALTHY_SECONDS = 60.0
_MAX_RESTARTS = 8


@dataclass(frozen=True)
class Child:
    """What to run and how to tell that it is ready."""

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    ready_url: str
    ready_timeout: float
    stop_timeout: float = 60.0
    explain: Callable[[str], str | None] = field(default=lambda _tail: None)


class Supervised:
    """One child with its restarts."""

    def __init__(self, child: Child, report: Callable[[str], None]) -> None:
        self.child = child
        self.restarts = 0
        self._report = report
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._log_start = 0

    @property
    def pid(self) -> int | None:
        """The process id, while it runs."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def start(self) -> None:
        """Starts it and waits until it is ready.

        Raises:
            OperatorError: its port is taken, it ended, or it was not ready in time; with its last lines and what they
                mean.
        """
        began = time.monotonic()
        await _port_is_free(self.child)
        self._process = await self._spawn()
        exited = asyncio.ensure_future(self._process.wait())
        ready = asyncio.ensure_future(_until_ready(self.child.ready_url))
        done, _ = await asyncio.wait(
            {exited, ready}, timeout=self.child.ready_timeout, return_when=asyncio.FIRST_COMPLETED
        )
        for task in (exited, ready):
            if task not in done:
                task.cancel()
        if exited in done or not done:
            how = (
                f"ended with code {self._process.returncode}"
                if done
                else f"was not ready in {self.child.ready_timeout:.0f} s"
            )
            await self._end()
            raise OperatorError(f"{self.child.name} {how}{self._why()}\n    (all of it: {self.child.log})")
        self._report(f"{self.child.name} is ready ({time.monotonic() - began:.1f} s)")

    async def keep(self) -> None:
        """Restarts it whenever it ends, until `stop`.

        Raises:
            OperatorError: it ended too often in a row.
        """
        while not self._stopping.is_set():
            assert self._process is not None
            began = time.monotonic()
            code = await self._process.wait()
            if self._stopping.is_set():
                return
            self.restarts = 1 if time.monotonic() - began > _HEALTHY_SECONDS else self.restarts + 1
            if self.restarts > _MAX_RESTARTS:
                raise OperatorError(f"{self.child.name} ended {self.restarts} times in a row{self._why()}")
            self._report(f"{self.child.name} ended with code {code}; starting it again")
            await asyncio.sleep(min(10.0, 0.25 * 2**self.restarts))
            if not self._stopping.is_set():
                try:
                    await self.start()
                except OperatorError as error:
                    self._report(error.message)

    async def stop(self) -> None:
        """Asks it to end (SIGTERM), then makes it (SIGKILL), with all it started."""
        self._stopping.set()
        await self._end()

    async def _end(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        _signal_group(process.pid, signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), self.child.stop_timeout)
        except TimeoutError:
            self._report(f"{self.child.name} did not end in {self.child.stop_timeout:.0f} s and was killed")
        _signal_group(process.pid, signal.SIGKILL)
        await process.wait()

    async def _spawn(self) -> asyncio.subprocess.Process:
        self.child.log.parent.mkdir(parents=True, exist_ok=True)
        with self.child.log.open("ab") as log:
            self._log_start = log.tell()
            return await asyncio.create_subprocess_exec(
                *self.child.command,
                env=self.child.environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )

    def _why(self) -> str:
        tail = _tail(self.child.log, self._log_start)
        advice = self.child.explain(tail)
        lines = "\n".join(f"    {line}" for line in tail.strip().splitlines()[-8:])
        return (f": {advice}" if advice else "") + (f"\n{lines}" if lines else "")


async def in_order(
    children: list[Supervised], run: Callable[[], Awaitable[None]], stop_order: list[Supervised]
) -> None:
    """Starts ``children`` one after the other, keeps them while ``run`` runs, then stops them in ``stop_order``."""
    keepers: list[asyncio.Task[None]] = []
    try:
        for child in children:
            await child.start()
            keepers.append(asyncio.create_task(child.keep()))
        body = asyncio.ensure_future(run())
        try:
            done, _ = await asyncio.wait({body, *keepers}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            body.cancel()  # before the first child stops: a client in it would meet a gateway that drains
            await asyncio.gather(body, return_exceptions=True)
        for task in done:
            task.result()
    finally:
        for child in stop_order:
            await child.stop()
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)


async def _port_is_free(child: Child) -> None:
    """Another server on the port would look ready in the child's place."""
    url = yarl.URL(child.ready_url)
    try:
        _, writer = await asyncio.open_connection(url.host, url.port)
    except OSError:
        return
    writer.close()
    raise OperatorError(f"{child.name} cannot start: port {url.port} is already in use; choose another in the settings")


async def _until_ready(url: str) -> None:
    timeout = aiohttp.ClientTimeout(total=5)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        while True:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with session.get(url) as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.2)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def _tail(path: Path, start: int) -> str:
    """The last bytes of a log, none of them older than ``start``."""
    try:
        with path.open("rb") as file:
            file.seek(max(start, path.stat().st_size - _TAIL_BYTES))
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
