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
        buffer = self._rest + piece
        # A blank line may straddle the seam, so the search starts three bytes before it.
        start, search, events = 0, max(0, len(self._rest) - 3), []
        while match := _BLANK_LINE.search(buffer, search):
            events.append(buffer[start : match.end()])
            start = search = match.end()
        self._rest = buffer[start:]
        if len(self._rest) > MAX_EVENT:
            raise EngineFailed(f"the engine sent more than {MAX_EVENT} bytes without ending an event")
        return events

    @property
    def rest(self) -> bytes:
        """Bytes of an event that has not ended."""
        return self._rest


def data_of(event: bytes) -> bytes | None:
    """What the event's ``data`` lines say; None for a comment or an event without data."""
    if event.startswith(b"data: ") and event.count(b"\n") == 2 and event.endswith(b"\n\n"):
        return event[6:-2]  # as every engine sends them
    lines = [line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None


def event_of(data: bytes) -> bytes:
    """An event that says ``data``, which holds no line end."""
    return b"data: " + data + b"\n\n"
