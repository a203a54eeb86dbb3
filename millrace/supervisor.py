# SPDX-License-Identifier: Apache-2.0
"""Keeps child processes alive: starts them in order, waits until each is ready, restarts what dies, stops in reverse.

A child is the leader of a process group of its own, so that Ctrl-C in a terminal reaches the supervisor alone and
what ends a child ends what it started. Where the supervisor itself is killed, the kernel ends its children
(PR_SET_PDEATHSIG).
"""

import asyncio
import contextlib
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yarl

from contract.errors import OperatorError
from millrace.group import die_with_parent, signal_group, until_empty

_TAIL_BYTES = 6000
_HEALTHY_SECONDS = 60.0
_MAX_RESTARTS = 8
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0
"""Seconds before the first restart in a row, doubled for each further one up to the second figure."""
_HURRIED = 2.0
"""What is left of a stop timeout, in seconds, for whoever asked twice."""
_LOG_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Child:
    """What to run and how to tell that it is ready."""

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    ready_url: str
    ready_timeout: float
    port_setting: str = "another in the settings"
    """Where its port is set."""
    stop_timeout: float = 60.0
    essential: bool = True
    """Whether the rest is of no use without it; what is not essential is started again for ever."""
    drains: bool = False
    """Whether processes that it leaves behind finish their work on SIGTERM and must be let."""
    explain: Callable[[str, int | None], str | None] = field(default=lambda _tail, _code: None)
    """From its last lines and its exit code (None: it has not ended by itself) to what they mean."""


class Supervised:
    """One child with its restarts."""

    def __init__(self, child: Child, report: Callable[[str], None]) -> None:
        self.child = child
        self.restarts = 0
        self._report = report
        self._process: asyncio.subprocess.Process | None = None
        self._hurry = asyncio.Event()
        self._clearing: list[asyncio.Task[None]] = []
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
        exited = asyncio.create_task(self._process.wait())
        ready = asyncio.create_task(_until_ready(self.child.ready_url))
        try:
            done, _ = await asyncio.wait(
                {exited, ready}, timeout=self.child.ready_timeout, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            exited.cancel()
            ready.cancel()
        if exited in done or not done:
            code = self._process.returncode
            how = f"ended with code {code}" if done else f"was not ready in {self.child.ready_timeout:.0f} s"
            await self.stop()
            raise OperatorError(f"{self.child.name} {how}{self._why(code)}\n    (all of it: {self.child.log})")
        self._report(f"{self.child.name} is ready ({time.monotonic() - began:.1f} s)")

    async def keep(self) -> None:
        """Restarts it whenever it ends, until cancelled.

        Raises:
            OperatorError: it is essential and ended too often in a row.
        """
        while True:
            assert self._process is not None
            began = time.monotonic()
            code = await self._process.wait()
            # Apart, because a gateway's workers may take long to drain and the next leader need not wait for them.
            self._clearing = [task for task in self._clearing if not task.done()]
            self._clearing.append(asyncio.create_task(self._clear(self._process.pid)))
            self.restarts = 1 if time.monotonic() - began > _HEALTHY_SECONDS else self.restarts + 1
            if self.restarts > _MAX_RESTARTS and self.child.essential:
                raise OperatorError(f"{self.child.name} ended {self.restarts} times in a row{self._why(code)}")
            advice = self.child.explain(self._last_words(), code)
            meaning = f" ({advice})" if advice else ""
            self._report(f"{self.child.name} ended with code {code}; starting it again{meaning}")
            await asyncio.sleep(min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(self.restarts - 1, _MAX_RESTARTS)))
            try:
                await self.start()
            except OperatorError as error:
                self._report(error.message)

    async def stop(self) -> None:
        """Asks it to end (SIGTERM), then makes it (SIGKILL), with all it started."""
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            signal_group(process.pid, signal.SIGTERM)
            if not await self._in_time(process.wait()):
                self._report(f"{self.child.name} did not end in time and was killed")
                signal_group(process.pid, signal.SIGKILL)
                await process.wait()
        await self._clear(process.pid)
        await asyncio.gather(*self._clearing)

    def hurry(self) -> None:
        """Cuts short what is left of the time that a stop gives it, now or later."""
        self._hurry.set()

    async def _clear(self, group: int) -> None:
        """Ends what a leader that is gone left behind."""
        if self.child.drains:
            signal_group(group, signal.SIGTERM)
            await self._in_time(until_empty(group))
        signal_group(group, signal.SIGKILL)

    async def _in_time(self, end: Coroutine[Any, Any, object]) -> bool:
        """Whether ``end`` came about before the stop timeout, or soon after `hurry`."""
        ended, hurried = asyncio.create_task(end), asyncio.create_task(self._hurry.wait())
        try:
            await asyncio.wait({ended, hurried}, timeout=self.child.stop_timeout, return_when=asyncio.FIRST_COMPLETED)
            if hurried.done():
                await asyncio.wait({ended}, timeout=_HURRIED)
            if ended.done():
                ended.result()
            return ended.done()
        finally:
            ended.cancel()
            hurried.cancel()

    async def _spawn(self) -> asyncio.subprocess.Process:
        try:
            self.child.log.parent.mkdir(parents=True, exist_ok=True)
            _make_room(self.child.log)
            with self.child.log.open("ab") as log:
                self._log_start = log.tell()
                return await asyncio.create_subprocess_exec(
                    *self.child.command,
                    env=self.child.environment,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    preexec_fn=die_with_parent,
                )
        except OSError as error:
            raise OperatorError(f"{self.child.name} cannot be started: {error}") from error

    def _why(self, code: int | None) -> str:
        words = self._last_words()
        advice = self.child.explain(words, code)
        lines = "\n".join(f"    {line}" for line in words.strip().splitlines()[-8:])
        return (f": {advice}" if advice else "") + (f"\n{lines}" if lines else "")

    def _last_words(self) -> str:
        return _tail(self.child.log, self._log_start)


async def in_order(
    children: list[Supervised], run: Callable[[], Awaitable[None]], stop_order: list[Supervised]
) -> None:
    """Starts ``children`` one after the other, keeps them while ``run`` runs, then stops them in ``stop_order``.

    Cancelled, it stops them all before it returns, however often it is cancelled.
    """
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
        stopping = asyncio.create_task(_stop(stop_order, keepers))
        while not stopping.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(stopping)
        stopping.result()


async def _stop(children: list[Supervised], keepers: list[asyncio.Task[None]]) -> None:
    for keeper in keepers:
        keeper.cancel()
    await asyncio.gather(*keepers, return_exceptions=True)
    for child in children:
        await child.stop()


async def _port_is_free(child: Child) -> None:
    """Another server on the port would look ready in the child's place."""
    url = yarl.URL(child.ready_url)
    try:
        _, writer = await asyncio.open_connection(url.host, url.port)
    except OSError:
        return
    writer.close()
    raise OperatorError(
        f"{child.name} cannot start: port {url.port} is already in use; stop what uses it, or set {child.port_setting}"
    )


async def _until_ready(url: str) -> None:
    timeout = aiohttp.ClientTimeout(total=5)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        while True:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with session.get(url) as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.2)


def _make_room(log: Path) -> None:
    """A log that has grown large becomes ``.1``; the one that was ``.1`` goes."""
    if log.exists() and log.stat().st_size > _LOG_BYTES:
        log.replace(log.with_name(f"{log.name}.1"))


def _tail(path: Path, start: int) -> str:
    """The last bytes of a log, none of them older than ``start``."""
    try:
        with path.open("rb") as file:
            file.seek(max(start, path.stat().st_size - _TAIL_BYTES))
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
