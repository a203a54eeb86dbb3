# SPDX-License-Identifier: Apache-2.0
"""A request's coroutine, run by the sockets it waits for instead of by an asyncio task.

A task is scheduled through the loop each time it goes on, and a timeout around each wait is one more timer to make and
to cancel. Here whoever has news (the client's connection, the engine's) wakes the strand directly, and one sweep over
all strands every `SWEEP_SECONDS` finds the deadlines that have passed. So a wait costs one resumption, and a deadline
costs two attributes and is met within that time.
"""

import asyncio
import logging
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Protocol

SWEEP_SECONDS = 0.05
NEVER = float("inf")
_log = logging.getLogger(__name__)


@types.coroutine
def parked() -> Generator[None, None, None]:
    """Waits until the strand is woken; the caller looks again whether what it waits for has happened."""
    yield


class Waiter(Protocol):
    """Who waits for sockets: a strand, or a request on its usual way, which needs none."""

    deadline: float
    """Loop time after which `late` is thrown at it."""
    late: Callable[[], BaseException]

    def wake(self) -> None:
        """There may be news."""

    def throw(self, error: BaseException) -> None:
        """It has waited for nothing."""


class Strand:
    """One coroutine on its way. It may await what asyncio offers, but has no current task: no `asyncio.timeout`."""

    __slots__ = ("_coroutine", "_future", "_running", "deadline", "done", "late")

    def __init__(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._coroutine = coroutine
        self._future: asyncio.Future[Any] | None = None
        self._running = False
        self.done = False
        self.deadline = NEVER
        """Loop time after which `late` is raised where it waits."""
        self.late: Callable[[], BaseException] = TimeoutError

    def wake(self) -> None:
        """Goes on; nothing happens where it runs already, has ended, or waits for something of asyncio's."""
        if not self._running and self._future is None and not self.done:
            self._step(None)

    def throw(self, error: BaseException) -> None:
        """Raises ``error`` where it waits; nothing happens where it has ended."""
        if self.done or self._running:
            return
        if self._future is not None:
            self._future.remove_done_callback(self._settled)
            self._future = None
        self._step(error)

    def _step(self, error: BaseException | None) -> None:
        self._running = True
        try:
            awaited = self._coroutine.send(None) if error is None else self._coroutine.throw(error)
        except StopIteration:
            self.done = True
        except BaseException:
            self.done = True
            _log.exception("a request ended in an error that nobody handled")
        else:
            if awaited is not None:
                awaited._asyncio_future_blocking = False  # as a task tells a future that it has understood
                awaited.add_done_callback(self._settled)
                self._future = awaited
        finally:
            self._running = False

    def _settled(self, future: "asyncio.Future[Any]") -> None:
        if future is self._future:  # else an error has come first, and what it waited for is of no use any more
            self._future = None
            self._step(None)


class Sweep:
    """The deadlines of everyone who waits in a worker."""

    def __init__(self) -> None:
        self.waiting: set[Waiter] = set()

    async def run(self) -> None:
        """Raises what is late where it waits, until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = loop.time()
            for waiter in [waiter for waiter in self.waiting if waiter.deadline <= now]:
                waiter.deadline = NEVER
                waiter.throw(waiter.late())
