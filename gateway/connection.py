# SPDX-License-Identifier: Apache-2.0
"""One HTTP/1.1 connection to a replica: where it leads, and what has come of the answer that is on its way."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import httptools

from gateway.strand import NEVER, Waiter

MAX_HEAD = 2**16
"""Bytes of an answer's head."""


@dataclass(frozen=True)
class Origin:
    """Where a replica listens."""

    host: str
    port: int
    tls: bool
    path: str
    """What every path there begins with; without a slash at its end."""

    @classmethod
    def of(cls, url: str) -> "Origin":
        """The parts of a base URL."""
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        return cls(parts.hostname or "", parts.port or (443 if tls else 80), tls, parts.path.rstrip("/"))

    def head(self, path: str) -> bytes:
        """What a request for ``path`` begins with, up to the value of its id."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (
            f"POST {self.path}{path} HTTP/1.1\r\nHost: {host}:{self.port}\r\nUser-Agent: millrace\r\n"
            "Content-Type: application/json\r\nX-Request-Id: "
        ).encode()


class Connection(asyncio.Protocol):
    """One connection to a replica, and what has come of the answer that is on its way."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.used = False
        """Whether it has carried an answer to its end before."""
        self.idle_since = NEVER
        self.lost = False
        self._parser = httptools.HttpResponseParser(self)
        self.waiter: Waiter | None = None
        """Who waits for the answer."""
        self.on_settled: Callable[[Connection], None] | None = None
        """To be called when an answer that nobody waits for has come to its end."""
        self._reset()

    def _reset(self) -> None:
        self.status = 0
        self.pieces: list[bytes] = []
        self.complete = False
        self.broken: str | None = None
        """Why no more of the answer will come."""
        self._framed = False
        self._keep = False
        self._head_bytes = 0

    def ask(self, request: bytes) -> None:
        """Sends a request; the waiter is woken whenever something of the answer has come."""
        self._reset()
        self.transport.write(request)

    def settle(self, now: float) -> None:
        """The answer is all there, or has said that it is: what is left of it nobody waits for."""
        self.waiter = None
        self.used = True
        self.idle_since = now

    def drop(self) -> None:
        """Takes the connection down, and with it whatever the engine still does for it."""
        self.waiter = None
        self.transport.abort()

    # --- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.waiter is None and self.on_settled is None:
            self.transport.abort()  # nobody has asked for anything
            return
        try:
            if self.status == 0:
                self._head_bytes += len(data)
            self._parser.feed_data(data)
            if self.status == 0 and self._head_bytes > MAX_HEAD:
                self._break(f"its answer's head is longer than {MAX_HEAD} bytes")
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._break(told(error))
        if self.waiter is not None:
            self.waiter.wake()
        elif self.complete and self.on_settled is not None:
            settled, self.on_settled = self.on_settled, None
            settled(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self.status and not self._framed and exc is None:
            self.complete = True  # without a length, the end of the connection is the end of the answer
        elif not self.complete:
            self.broken = self.broken or (told(exc) if exc is not None else "the connection was closed")
        if self.waiter is not None:
            self.waiter.wake()

    # --- what the parser calls

    def on_header(self, name: bytes, _value: bytes) -> None:
        if name.lower() in (b"content-length", b"transfer-encoding"):
            self._framed = True

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200:  # below, the answer itself is still to come
            self.status = status

    def on_body(self, body: bytes) -> None:
        self.pieces.append(body)

    def on_message_complete(self) -> None:
        if self.status:
            self.complete = True
            self._keep = self._parser.should_keep_alive()

    def reusable(self) -> bool:
        """Whether another request may go this way."""
        return self.complete and self._framed and self._keep and not self.transport.is_closing()

    def _break(self, why: str) -> None:
        self.broken = why
        self.transport.abort()


def told(error: BaseException) -> str:
    """The kind of failure alone: its text may name hosts and ports that clients need not see."""
    return type(error).__name__
