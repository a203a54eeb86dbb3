# SPDX-License-Identifier: Apache-2.0
"""A producer is a slot with one spool and one writer, such as ``gateway-0``.

A process takes the first free slot of its role. The kernel's lock says whether a slot is free, so a slot whose
process was killed is free at once and the next process goes on with its spool.
"""

import fcntl
import itertools
import os
from dataclasses import dataclass, field
from pathlib import Path

from contract.errors import SpoolError

_LOCK = "lock"


@dataclass
class Producer:
    """A slot held by this process. Take it after the last fork: a child would share the lock."""

    name: str
    folder: Path
    _descriptor: int = field(repr=False)

    def release(self) -> None:
        """Gives the slot back; twice does no harm."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def claim_producer(spool: Path, role: str) -> Producer:
    """Takes the first free slot of ``role`` for the life of the process.

    Raises:
        SpoolError: the spool folder cannot be written.
    """
    for number in itertools.count():
        producer = claim_slot(spool / f"{role}-{number}")
        if producer is not None:
            return producer
    raise AssertionError("unreachable: slots do not run out")


def claim_slot(folder: Path) -> Producer | None:
    """Takes this one slot; None where a live process holds it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise SpoolError(f"cannot use the spool folder {folder}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return Producer(folder.name, folder, descriptor)
