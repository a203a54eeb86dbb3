# SPDX-License-Identifier: Apache-2.0
"""A provider's answer on its way from litellm's task to the strand of a request.

The task takes the next piece only while less than `MOST_HELD` bytes wait for the strand, so a client that reads slowly
slows the provider and fills no memory. Deadlines are those of `gateway.upstream`, but for the connection: litellm makes
it, and only some of its clients bound the time for it, so the first byte's deadline is what holds.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from contract.errors import EngineTimeout, MillraceError
from gateway.strand import NEVER, Strand, parked
from gateway.upstream import Stopwatch, Timeouts

MOST_HELD = 2**16


class Feed:
    """Used as `gateway.upstream.Answer` is; what a provider refuses is raised, so it has but one status."""

    status = 200

    def __init__(
        self,
        pieces: AsyncGenerator[bytes],
        told: Callable[[BaseException], MillraceError],
        strand: Strand,
        timeouts: Timeouts,
        watch: Stopwatch,
    ) -> None:
        """Begins to read ``pieces``; ``told`` makes an error of ours of what that raises."""
        self._loop = asyncio.get_running_loop()
        self._told = told
        self._strand: Strand | None = strand
        self._timeouts = timeouts
        self._watch = watch
        now = self._loop.time()
        self._first_by: float | None = now + timeouts.first_byte
        self._end_by = now + timeouts.total
        self._pieces: list[bytes] = []
        self._held = 0
        self._room = asyncio.Event()
        self._complete = False
        self._broken: MillraceError | None = None
        watch.reached = True
        self.task = self._loop.create_task(self._fill(pieces))

    async def head(self) -> None:
        """Returns once there is something of the answer.

        Raises:
            MillraceError: there will be nothing of it.
        """
        try:
            while not (self._pieces or self._complete):
                await self._more()
        except BaseException:
            self.abort()
            raise

    async def pieces(self) -> list[bytes]:
        """What has come since the last call; an empty list is its end.

        Raises:
            EngineTimeout: it did not come in time.
            MillraceError: the answer broke off.
        """
        while not self._pieces:
            if self._complete:
                return []
            await self._more()
        found, self._pieces, self._held = self._pieces, [], 0
        self._first_by = None
        self._room.set()
        return found

    async def body(self) -> bytes:
        """All of it; raises as `pieces` does."""
        found: list[bytes] = []
        while pieces := await self.pieces():
            found += pieces
        return b"".join(found)

    def hold(self) -> None:
        """Nothing: what is not taken holds the task back by itself."""

    def go_on(self) -> None:
        """After `hold`."""

    def done(self) -> None:
        """The answer has been used to its end."""
        self._strand = None

    def abort(self) -> None:
        """Nobody wants the rest: the call ends, and with it the connection to the provider."""
        self._strand = None
        self.task.cancel()

    done_or_abort = abort
    """A call that has ended is not touched by it."""

    async def _fill(self, pieces: AsyncGenerator[bytes]) -> None:
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    self._pieces.append(piece)
                    self._held += len(piece)
                    self._news()
                    while self._held >= MOST_HELD:
                        self._room.clear()
                        await self._room.wait()
            self._complete = True
        except Exception as error:
            self._broken = self._told(error)
        finally:
            self._news()

    def _news(self) -> None:
        # Not at once: the strand would run inside this task, and may end it.
        if self._strand is not None:
            self._loop.call_soon(self._strand.wake)

    async def _more(self) -> None:
        """Waits for news of the answer, as long as it may take."""
        if self._broken is not None:
            raise self._broken
        strand = self._strand
        assert strand is not None
        wanted_by = self._loop.time() + self._timeouts.read if self._first_by is None else self._first_by
        strand.deadline = min(wanted_by, self._end_by)
        strand.late = self._too_late
        self._watch.start()
        try:
            await parked()
        finally:
            self._watch.stop()
        strand.deadline = NEVER

    def _too_late(self) -> EngineTimeout:
        timeouts = self._timeouts
        if self._loop.time() >= self._end_by:
            return _timeout("total", timeouts.total, "the whole answer")
        if self._first_by is not None:
            return _timeout("first_byte", timeouts.first_byte, "the first piece of its answer")
        return _timeout("read", timeouts.read, "the next piece of its answer")


def _timeout(which: str, seconds: float, what: str) -> EngineTimeout:
    return EngineTimeout(
        f"the provider did not give {what} within {seconds:g} s ({which}_timeout)", code=f"engine_{which}_timeout"
    )
