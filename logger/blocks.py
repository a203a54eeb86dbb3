# SPDX-License-Identifier: Apache-2.0
"""Records in blocks that a broker takes: what is too large for a message goes without its payload."""

import logging
from collections.abc import Sequence

import msgspec

from contract.errors import SpoolError
from contract.records import Invocation, NewerRecord, decode, encode
from logger.frames import HEADER
from logger.reader import Entry
from logger.spool import without_payload

log = logging.getLogger(__name__)


def within(bound: int, entries: Sequence[Entry]) -> tuple[list[list[Entry]], int]:
    """The entries in order, in blocks of at most ``bound`` bytes, and how many of them lost their payload.

    Raises:
        SpoolError: a record is too large for a block and has no payload to lose.
    """
    if not entries:
        return [], 0
    if sum(map(_size, entries)) <= bound:
        return [list(entries)], 0
    fitting = [entry if _size(entry) <= bound else _without_payload(entry, bound) for entry in entries]
    return [[entry] for entry in fitting], sum(new is not old for new, old in zip(fitting, entries, strict=True))


def _size(entry: Entry) -> int:
    return HEADER.size + len(entry.payload)


def _without_payload(entry: Entry, bound: int) -> Entry:
    """The same record at the same position, the meter part alone."""
    try:
        record = decode(entry.payload)
    except (NewerRecord, msgspec.DecodeError) as error:
        raise SpoolError(
            f"record {entry.seq} {_too_large(entry, bound)}, and cannot be made smaller: {error}"
        ) from None
    smaller = Entry(entry.seq, encode(without_payload(record))) if isinstance(record, Invocation) else entry
    if _size(smaller) > bound:
        raise SpoolError(f"record {entry.seq} ({record.id}) {_too_large(smaller, bound)}")
    log.warning("%s %s and goes without its payload", record.id, _too_large(entry, bound))
    return smaller


def _too_large(entry: Entry, bound: int) -> str:
    return f"takes {_size(entry)} bytes where the topic's max.message.bytes leaves {bound}"
