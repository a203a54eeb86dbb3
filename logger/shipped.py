# SPDX-License-Identifier: Apache-2.0
"""How far a spool has been shipped, saved beside its segments."""

import os
from dataclasses import dataclass
from pathlib import Path

from contract.errors import SpoolError
from logger.reader import Entry
from logger.recovery import glance
from logger.segments import first_seqs

POSITION = "shipped"


@dataclass(frozen=True)
class Position:
    """The next position, and the id of the record before it, to tell the spool from another one in its place."""

    next_seq: int
    last_id: str | None = None
    """None before the first record, and after one without an id that we can read."""


def position_after(entry: Entry) -> Position:
    """The position once ``entry`` has arrived."""
    record = glance(entry.payload)
    return Position(entry.seq + 1, record.id if record else None)


def read_position(folder: Path) -> Position:
    """The position up to which the broker has acknowledged; the oldest record here where none was saved.

    Raises:
        SpoolError: what was saved is no position.
    """
    path = folder / POSITION
    if not path.exists():
        return Position(next(iter(first_seqs(folder)), 0))
    text = path.read_text()
    next_seq, _, last_id = text.partition(" ")
    if not next_seq.isdecimal():
        raise SpoolError(f"{path} holds {text[:40]!r}, no position; without the file everything here is sent again")
    return Position(int(next_seq), last_id or None)


def write_position(folder: Path, position: Position) -> None:
    """Saves a position: whole or not at all."""
    fresh = folder / f"{POSITION}.new"
    with fresh.open("w") as file:
        file.write(f"{position.next_seq} {position.last_id or ''}")
        file.flush()
        os.fdatasync(file.fileno())
    fresh.rename(folder / POSITION)
