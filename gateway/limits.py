# SPDX-License-Identifier: Apache-2.0
"""What a request must be granted before its first upstream byte: for now, a place among those in flight.

Every request reserves once and settles once, however it ends.
"""

import asyncio

from contract.errors import Overloaded

RETRY_AFTER = 1.0


class Limits:
    """The bound of one worker."""

    def __init__(self, max_concurrent: int) -> None:
        self._max_concurrent = max_concurrent
        self._idle = asyncio.Event()
        self._idle.set()
        self.in_flight = 0

    def reserve(self) -> "Reservation":
        """A place in flight.

        Raises:
            Overloaded: all are taken.
        """
        if self.in_flight >= self._max_concurrent:
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

    def __init__(self, limits: Limits) -> None:
        self._limits: Limits | None = limits

    def settle(self) -> None:
        """Gives back what was held; a second time does nothing."""
        if self._limits is not None:
            self._limits._release()
            self._limits = None
