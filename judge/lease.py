# SPDX-License-Identifier: Apache-2.0
"""The lease ``live judge``: at most one process scores live traffic, so no answer is scored twice."""

import asyncio
import time
from collections.abc import Callable

import sqlalchemy as sa

from contract import leases

NAME = "live judge"
TTL_SECONDS = 15.0


class LeaseLost(Exception):
    """The lease ran out while this process was held up; what it was about to do must not happen."""


class Lease:
    """This process's hold on the lease.

    ``holder`` names the spool slot and its machine, so a judge that was killed and comes back has it at once.
    """

    def __init__(self, engine: sa.Engine, holder: str, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._engine = engine
        self._holder = holder
        self._now_ns = now_ns
        self._taken_ns: int | None = None

    async def held(self) -> bool:
        """Takes or renews the lease, a third of the way through at the latest; whether it is ours."""
        if self._taken_ns is None or self._age() > TTL_SECONDS / 3:
            now = self._now_ns()
            self._taken_ns = now if await asyncio.to_thread(self._hold) else None
        return self._taken_ns is not None

    def check(self) -> None:
        """Call it right before anything that only the holder may do.

        Raises:
            LeaseLost: it is not ours, or not for sure any more.
        """
        if self._taken_ns is None or self._age() >= TTL_SECONDS:
            raise LeaseLost(f"{self._holder} does not hold the lease {NAME!r} any more")

    def release(self) -> None:
        """Gives it back, so that a standby need not wait."""
        if self._taken_ns is not None:
            with self._engine.begin() as connection:
                leases.release(connection, NAME, self._holder)
            self._taken_ns = None

    def _age(self) -> float:
        """Seconds since it was taken for sure; a wall clock set back makes it old, never young."""
        assert self._taken_ns is not None
        age = (self._now_ns() - self._taken_ns) / leases.NANOSECONDS
        return age if age >= 0 else TTL_SECONDS

    def _hold(self) -> bool:
        with self._engine.begin() as connection:
            return leases.hold(connection, NAME, self._holder, TTL_SECONDS, self._now_ns)
