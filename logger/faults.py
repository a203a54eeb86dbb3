# SPDX-License-Identifier: Apache-2.0
"""The named places where a death is worst: between two steps that must not come apart.

``MILLRACE_FAULT=after_ack:3`` kills the process with SIGKILL as it passes `after_ack` for the third time. Tests alone
set it; without it a point costs a call of nothing, and the one on the way of every answer a look at a constant.

point               what has happened, and what has not
after_append        a record is in its segment, and whoever waits for it has not been told
after_segment       a new segment is there, with nothing in it
after_cut           a torn end is cut off, and no open answer is closed
after_interrupted   one answer that was cut off is closed, the next is not
after_produce       a block is on its way to the broker
after_ack           the broker has a block, and its position is not saved
before_save         as after_ack, about to save
after_save          the position is saved, and the segments behind it are there still
before_commit       a batch is whole, and nothing of it is in the store
in_commit           all of a batch is in a transaction that is not committed
after_commit        the store has a batch, and nobody has taken note of it
before_checkpoint   what is committed is in the store's write-ahead log alone
after_checkpoint    it is in the store's file, and nothing is deleted where it came from
after_delete        one segment is deleted, others that may go are there still
"""

import os
import signal
from collections.abc import Callable
from typing import Literal

VARIABLE = "MILLRACE_FAULT"
Point = Literal[
    "after_append",
    "after_segment",
    "after_cut",
    "after_interrupted",
    "after_produce",
    "after_ack",
    "before_save",
    "after_save",
    "before_commit",
    "in_commit",
    "after_commit",
    "before_checkpoint",
    "after_checkpoint",
    "after_delete",
]
WRITER: tuple[Point, ...] = ("after_append", "after_segment", "after_cut", "after_interrupted")
"""What a producer passes: a gateway, a judge, a trainer."""
SHIPPER: tuple[Point, ...] = ("after_produce", "after_ack", "before_save", "after_save", "after_delete")
"""What the shipper passes."""
CONSUMER: tuple[Point, ...] = ("before_commit", "in_commit", "after_commit", "before_checkpoint", "after_checkpoint")
"""What the ingester passes, wherever it reads from."""
INGESTER: tuple[Point, ...] = (*CONSUMER, "after_delete")
"""What the ingester passes that reads straight from the spools."""


def armed(order: str | None) -> Callable[[Point], None] | None:
    """What `reach` is to do by a value of `VARIABLE`; None where there is none.

    Raises:
        ValueError: it is no point with a count from 1.
    """
    if order is None:
        return None
    point, _, count = order.partition(":")
    if point not in {*WRITER, *SHIPPER, *INGESTER} or not count.isdecimal() or int(count) < 1:
        raise ValueError(f"{VARIABLE}={order}: no point with a count, such as after_ack:3; see logger/faults.py")
    left = int(count)

    def pass_by(reached: Point) -> None:
        nonlocal left
        left -= reached == point
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return pass_by


def nowhere(_point: Point) -> None:
    """The fault points of production: none."""


_pass_by = armed(os.environ.get(VARIABLE))
ARMED = _pass_by is not None
reach: Callable[[Point], None] = _pass_by or nowhere
"""Called at each point with its name."""
