# SPDX-License-Identifier: Apache-2.0
"""Leases: at most one process at a time is the reconciler, the scheduler, the live judge, or runs a given job.

A lease is held until it expires or is released; its holder renews it well before. A holder that was suspended for
longer than ``ttl`` has lost it and must notice (`hold` returns False) before it acts again.
"""

import time
from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from contract.database import leases

NANOSECONDS = 1_000_000_000


def hold(
    connection: sa.Connection, name: str, holder: str, ttl: float, now_ns: Callable[[], int] = time.time_ns
) -> bool:
    """Takes or renews a lease for ``ttl`` seconds; False where another holder's has not expired."""
    now = now_ns()
    row = insert(leases).values(name=name, holder=holder, expires_ns=now + int(ttl * NANOSECONDS))
    taken = row.on_conflict_do_update(
        index_elements=[leases.c.name],
        set_={"holder": row.excluded.holder, "expires_ns": row.excluded.expires_ns},
        where=sa.or_(leases.c.holder == holder, leases.c.expires_ns <= now),
    ).returning(leases.c.name)
    return connection.scalar(taken) is not None


def release(connection: sa.Connection, name: str, holder: str) -> None:
    """Gives a lease back at once; nothing happens where another process holds it."""
    connection.execute(leases.delete().where(leases.c.name == name, leases.c.holder == holder))
