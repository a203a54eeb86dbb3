# SPDX-License-Identifier: Apache-2.0
"""What a request must be granted before its first upstream byte: a place among those in flight, here and of its model.

Every request reserves once and settles once, however it ends. A model with a bound of its own has a queue before it,
first come, first served; a queue that is full, or in which a request waits for too long, says so instead of growing.
"""

import asyncio
from collections import deque

from contract.errors import Overloaded
from contract.settings import Settings
from gateway.strand import NEVER, Strand, parked

RETRY_AFTER = 1.0


class Limits:
    """The bounds of one worker."""

    def __init__(self, settings: Settings) -> None:
        self._max_concurrent = settings.gateway.max_concurrent
        self._idle = asyncio.Event()
        self._idle.set()
        self.in_flight = 0
        self.gates = {
            name: Gate(name, model.max_concurrent, model.max_queue, settings.gateway.queue_timeout)
            for name, model in settings.models.items()
            if model.max_concurrent is not None
        }
        """Those models that have a bound of their own."""

    @property
    def full(self) -> bool:
        """Whether every place is taken."""
        return self.in_flight >= self._max_concurrent

    def reserve(self) -> "Reservation":
        """A place in flight.

        Raises:
            Overloaded: all are taken.
        """
        if self.full:
            raise Overloaded(
                f"{self.in_flight} requests are in flight, the most this server takes at once; try again shortly",
                retry_after=RETRY_AFTER,
            )
        self.in_flight += 1
        self._idle.clear()
        return Reservation(self)

    async def idle(self) -> None:
        """Returns once nothing is in flight."""
        await self._idle.wait()

    def _release(self) -> None:
        self.in_flight -= 1
        if self.in_flight == 0:
            self._idle.set()


class Reservation:
    """What one request holds until it settles."""

    __slots__ = ("_limits",)

    def __init__(self, limits: Limits) -> None:
        self._limits: Limits | None = limits

    def settle(self) -> None:
        """Gives back what was held; a second time does nothing."""
        if self._limits is not None:
            self._limits._release()
            self._limits = None


class Gate:
    """The places of one model, and the queue of those who wait for one."""

    def __init__(self, model: str, places: int, max_queue: int, timeout: float) -> None:
        """``timeout`` is in seconds."""
        self._model = model
        self._free = places
        self._places = places
        self._max_queue = max_queue
        self._timeout = timeout
        self._queue: deque[_Waiting] = deque()

    @property
    def queued(self) -> int:
        """How many wait."""
        return len(self._queue)

    async def enter(self, strand: Strand) -> None:
        """Takes a place, once one is free; `leave` gives it back.

        Raises:
            Overloaded: too many wait already, or no place came free in time.
        """
        if self._free and not self._queue:
            self._free -= 1
            return
        if len(self._queue) >= self._max_queue:
            raise Overloaded(
                f"{self._places} requests to {self._model} are in flight and {len(self._queue)} wait, "
                "the most this server takes at once; try again shortly",
                retry_after=RETRY_AFTER,
            )
        waiting = _Waiting(strand)
        self._queue.append(waiting)
        loop = asyncio.get_running_loop()
        strand.deadline, strand.late = loop.time() + self._timeout, self._no_place_in_time
        try:
            while not waiting.granted:
                await parked()
        except BaseException:
            if waiting.granted:
                self.leave()
            else:
                self._queue.remove(waiting)
            raise
        finally:
            strand.deadline = NEVER

    def leave(self) -> None:
        """Gives a place back, to the first who waits."""
        if not self._queue:
            self._free += 1
            return
        waiting = self._queue.popleft()
        waiting.granted = True
        asyncio.get_running_loop().call_soon(waiting.strand.wake)

    def _no_place_in_time(self) -> Overloaded:
        return Overloaded(
            f"no request to {self._model} ended within {self._timeout:g} s (gateway.queue_timeout); try again shortly",
            retry_after=RETRY_AFTER,
        )


class _Waiting:
    __slots__ = ("granted", "strand")

    def __init__(self, strand: Strand) -> None:
        self.strand = strand
        self.granted = False
