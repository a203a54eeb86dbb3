# SPDX-License-Identifier: Apache-2.0
"""Which live answers a grader sees: a share, drawn by a stable hash of the invocation's id.

The same id gets the same draw in every process, after every restart and on every replay of the log. Graders of the
same rate see the same answers, and a higher rate sees all that a lower one does, so their scores can be compared.
"""

import hashlib

_SPAN = 2**64


def draw(invocation: str) -> int:
    """A number below 2^64, uniform over ids."""
    return int.from_bytes(hashlib.blake2b(invocation.encode(), digest_size=8, person=b"millrace-judge").digest(), "big")


def is_sampled(invocation: str, rate: float) -> bool:
    """Whether the answer is in the share ``rate`` (0 to 1); 0 takes none and 1 takes all, exactly."""
    return draw(invocation) < int(rate * _SPAN)
