# SPDX-License-Identifier: Apache-2.0
"""Server-sent events as bytes: where one ends, and what data it carries.

Source: the event stream format of the HTML standard, section 9.2. Lines end in LF or CRLF here; a lone CR, which the
standard also allows, is sent by no engine.
"""

import re

from contract.errors import EngineFailed

DONE = b"[DONE]"
MAX_EVENT = 16 * 2**20
"""Bytes of one event; an engine that sends more without a blank line sends no events."""
_BLANK_LINE = re.compile(rb"\r?\n\r?\n")


class Splitter:
    """Cuts a byte stream into events, wherever the network has cut it."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> list[bytes]:
        """The events that ``piece`` completes, each with its blank line, byte for byte as they came.

        Raises:
            EngineFailed: an event passes `MAX_EVENT`.
        """
        buffer = self._rest + piece if self._rest else piece
        # A blank line may straddle the seam, so the search starts three bytes before it.
        search = max(0, len(self._rest) - 3)
        events, start = _events_lf(buffer, search) if b"\r" not in buffer else _events(buffer, search)
        self._rest = buffer[start:]
        if len(self._rest) > MAX_EVENT:
            raise EngineFailed(f"the engine sent more than {MAX_EVENT} bytes without ending an event")
        return events

    def only(self, piece: bytes) -> bytes | None:
        """What ``piece`` says where it is one event alone, as engines flush them; else None, and `feed` takes it."""
        if self._rest or not piece.startswith(b"data: ") or not piece.endswith(b"\n\n") or piece.count(b"\n") != 2:
            return None
        return piece[6:-2]

    @property
    def rest(self) -> bytes:
        """Bytes of an event that has not ended."""
        return self._rest


def _events_lf(buffer: bytes, search: int) -> tuple[list[bytes], int]:
    """As `_events`, where every line ends in LF alone, as engines write."""
    start, events = 0, []
    while (at := buffer.find(b"\n\n", search)) >= 0:
        events.append(buffer[start : at + 2])
        start = search = at + 2
    return events, start


def _events(buffer: bytes, search: int) -> tuple[list[bytes], int]:
    """The events that end in the buffer, and where the rest begins."""
    start, events = 0, []
    while match := _BLANK_LINE.search(buffer, search):
        events.append(buffer[start : match.end()])
        start = search = match.end()
    return events, start


def data_of(event: bytes) -> bytes | None:
    """What the event's ``data`` lines say; None for a comment or an event without data."""
    if event.startswith(b"data: ") and event.count(b"\n") == 2 and event.endswith(b"\n\n"):
        return event[6:-2]  # as every engine sends them
    lines = [line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None


def event_of(data: bytes) -> bytes:
    """An event that says ``data``, which holds no line end."""
    return b"data: " + data + b"\n\n"
