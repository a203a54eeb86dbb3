# SPDX-License-Identifier: Apache-2.0
"""The HTTP/1.1 server's side of the hot routes, in front of the application, on the same port.

uvicorn takes this class in place of its own. A POST to one of the hot routes becomes a `Turn`, which a strand answers;
every other request goes the usual way to the FastAPI application. Requests that a client pipelines are answered in
their order, whichever way they go.

Bounds: a head has at most `MAX_HEAD` bytes in `MAX_HEADERS` lines, a body ``gateway.max_body`` bytes; a head or a body
that does not come within ``gateway.body_timeout`` is cut. Framing is llhttp's, strict: a request with both a length and
chunks, or with two lengths, is a 400 and the end of its connection; so is one whose body is coded (`gateway.codings`).
"""

import asyncio
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote_to_bytes

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from contract.errors import HeadTooLarge, InvalidRequest, MillraceError
from contract.ids import new_id
from gateway.codings import refusal
from gateway.crowd import admit
from gateway.rendering import rendered
from gateway.strand import NEVER
from gateway.turn import Answering, Head, Turn

if TYPE_CHECKING:
    from gateway.worker import Worker

KEEP_ALIVE = 75.0
"""Seconds an idle connection stays: longer than clients keep theirs, so that none is closed under a new request."""
LINGER_SECONDS = 2.0
MAX_HEAD = 2**16
MAX_HEADERS = 128
MAX_KNOWN_HEADS, MAX_KNOWN_HEAD = 1024, 4096
"""How many heads a worker remembers, and how long they may be; anybody can send one."""
_HEAD_END = b"\r\n\r\n"


class Door(HttpToolsProtocol):
    """One client's connection."""

    cycle: Any
    """What the last request became: a `Turn`, uvicorn's own cycle, or None."""

    def __init__(self, worker: "Worker", hot: dict[bytes, Answering], **options: Any) -> None:
        super().__init__(**options)
        self.worker = worker
        self.active: Turn | None = None
        """The turn that is being answered."""
        self.deadline = NEVER
        """Loop time after which it is closed for being idle, or for a request that does not come to its end."""
        self._hot = hot
        self._ready: Turn | None = None
        self._between = True
        """The last request has come to its end, and nothing of the next one has come."""
        self._in_head = True
        self._chunk = 0
        """Bytes of the chunk that is being read."""
        self._head_began_in = 0
        """Bytes of the chunk in which the head began; some may be of an earlier request."""
        self._head_later = 0
        """Bytes of the head's later chunks."""
        self._broken = False
        self._upgrade = False
        """The request asks for another protocol."""

    def date(self) -> bytes:
        """The headers that uvicorn renews every second, ready for the wire."""
        headers, line = self.worker.date
        if headers is not self.server_state.default_headers:
            headers = self.server_state.default_headers
            line = b"".join(b"%b: %b\r\n" % pair for pair in headers)
            self.worker.date = (headers, line)
        return line

    # --- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast(asyncio.Transport, transport))
        self.worker.doors.add(self)
        self.deadline = self.worker.now() + self.worker.settings.gateway.body_timeout
        full = admit(self.worker, self)
        if full is not None:
            self._refuse(full)

    def data_received(self, data: bytes) -> None:
        began_here = self._between
        if self._broken or (began_here and self._came_before(data)):
            return
        rest = self._read(data)
        while rest and not self._broken:
            rest = self._read(rest)
        ready, self._ready = self._ready, None
        if ready is not None:
            if began_here:
                self._remember(data, ready)
            ready.begin()

    def _read(self, data: bytes) -> bytes:
        """Parses; what is to be read again, where a request asked for another protocol."""
        self._chunk = len(data)
        if self._in_head:
            self._head_later += len(data)
        try:
            self.parser.feed_data(data)
            if self._in_head and self._head_later > MAX_HEAD:
                self._refuse(_head_too_large())
        except httptools.HttpParserUpgrade as asked:
            return self._without_upgrade(data[asked.args[0] :])
        except httptools.HttpParserError as error:
            self._refuse(InvalidRequest(f"this is no HTTP request that can be taken: {error}", code="invalid_http"))
        return b""

    def connection_lost(self, exc: Exception | None) -> None:
        self.worker.doors.discard(self)
        active, self.active = self.active, None
        if isinstance(self.cycle, Turn):
            self.cycle = None
        super().connection_lost(exc)
        for waiting, _ in self.pipeline:
            turn: Any = waiting
            if isinstance(turn, Turn):
                turn.gone()
        if active is not None:
            active.gone()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.active is None:  # a turn watches over its own answer
            self.deadline = min(self.deadline, self.worker.now() + self.worker.settings.gateway.send_timeout)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.active is not None:
            self.active.news()
        elif self.cycle is not None and not self.cycle.response_complete:
            self.deadline = NEVER

    # --- what the parser calls

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self._between = False
        self._in_head = True
        self._head_began_in, self._head_later = self._chunk, 0
        if self.cycle is None or self.cycle.response_complete:
            self.deadline = self.worker.now() + self.worker.settings.gateway.body_timeout

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._upgrade = self.parser.should_upgrade()
        if self._upgrade:
            return
        at_most = self._head_began_in + self._head_later
        if len(self.headers) > MAX_HEADERS or (at_most > MAX_HEAD and self._head_size() > MAX_HEAD):
            self._refuse(_head_too_large())
            return
        refused = refusal(self.headers)
        if refused is not None:
            self._refuse(refused)
            return
        path = self.url if self.url in self._hot else _path(self.url)
        answering = self._hot.get(path) if self.parser.get_method() == b"POST" else None
        if answering is None:
            self._to_the_application()
            return
        http11 = self.parser.get_http_version() == "1.1"
        keep_alive = http11 and self.parser.should_keep_alive()
        head = Head(path.decode(), answering, self.headers, http11, keep_alive, _authorization(self.headers))
        turn = Turn(self, head)
        earlier, self.cycle = self.cycle, turn
        if earlier is None or earlier.response_complete:
            self._ready = turn
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cast(RequestResponseCycle, turn), self.app))

    def on_body(self, body: bytes) -> None:
        if self._broken or self._upgrade:
            return
        if isinstance(self.cycle, Turn):
            self.cycle.take(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._between = True
        if self._broken or self._upgrade:
            return
        if isinstance(self.cycle, Turn):
            self.cycle.body_complete = True
            self.cycle.news()
        else:
            super().on_message_complete()

    # --- heads that come again and again

    def _came_before(self, data: bytes) -> bool:
        """Takes a whole request whose head has come before, byte for byte: what was read in it then holds again."""
        end = data.find(_HEAD_END) + len(_HEAD_END)
        known = self.worker.heads.get(data[:end])
        if (
            known is None
            or len(data) - end != known[1]
            or (self.cycle is not None and not self.cycle.response_complete)
        ):
            return False
        turn = self.cycle = Turn(self, known[0])
        turn.take(data[end:])
        turn.body_complete = True
        turn.begin()
        return True

    def _remember(self, data: bytes, turn: Turn) -> None:
        """Keeps the head of a request that came alone and whole, its body as long as it said."""
        end = data.find(_HEAD_END) + len(_HEAD_END)
        alone = turn.body_complete and turn.size == len(data) - end and data.startswith(b"POST ")
        if alone and end <= MAX_KNOWN_HEAD:
            if len(self.worker.heads) >= MAX_KNOWN_HEADS:
                self.worker.heads.clear()
            self.worker.heads[data[:end]] = (turn.head, turn.size)

    # --- turns

    def on_response_complete(self) -> None:
        """As uvicorn's, but for the timer: the sweep looks at `deadline`."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            # It closes once the client has taken what is left.
            self.deadline = self.worker.now() + self.worker.settings.gateway.send_timeout
            return
        following = self.pipeline.pop() if self.pipeline else None
        if not self.pipeline:  # else more requests would come in than go out
            self.flow.resume_reading()
        if following is not None:
            self._start_asgi_task(*following)
            return
        if self._broken:
            self.linger()
            return
        unread = isinstance(self.cycle, Turn) and not self.cycle.body_complete
        self.deadline = self.worker.now() + (self.worker.settings.gateway.body_timeout if unread else KEEP_ALIVE)

    def expire(self) -> None:
        """Its deadline has passed."""
        self.deadline = NEVER
        self.transport.abort()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if isinstance(cycle, Turn):
            self.loop.call_soon(cycle.begin)
        else:
            self.deadline = NEVER
            if self.flow.write_paused:
                self.pause_writing()  # again, as its client still reads nothing of the answer before
            super()._start_asgi_task(cycle, app)

    def _to_the_application(self) -> None:
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url = url
        for name, value in headers:
            super().on_header(name, value)
        super().on_headers_complete()

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _refuse(self, error: MillraceError) -> None:
        """Answers what is no request. An answer under way goes on; its connection ends with it."""
        if self._broken:
            return  # told already; what follows it may be wrong in a way of its own
        self._last_request()
        cycle = self.cycle
        if self.pipeline:
            # An earlier request is being answered, and `cycle` waits: whole, or as what this error is about.
            if isinstance(cycle, Turn) and not cycle.body_complete:
                self.pipeline.popleft()
                cycle.gone()
            return
        if cycle is not None and not cycle.response_complete:
            if isinstance(cycle, Turn):
                if cycle.body_complete:
                    return
                if cycle.waiter is not None:
                    cycle.waiter.throw(error)
                    return
                self._ready = None
            elif cycle.response_started or not cycle.more_body:
                return
            else:
                cycle.disconnected = True  # the application need not wait for the rest of the body
                cycle.message_event.set()
        headers, body = rendered(error)
        head = b"%bx-request-id: %b\r\ncontent-length: %d\r\n%bconnection: close\r\n%b\r\n"
        self.transport.write(
            head % (STATUS_LINE[error.status], new_id("req").encode(), len(body), self.date(), headers) + body
        )
        self.linger()

    def linger(self) -> None:
        """Closes, but takes in for a moment what the client still sends: else the kernel would reset the connection,
        and the answer might be lost on its way.
        """
        self._broken = True
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self.deadline = self.worker.now() + LINGER_SECONDS
        else:
            self.transport.close()  # TLS has no half-closed state

    def _without_upgrade(self, rest: bytes) -> bytes:
        """The request again as one that asks for no other protocol, as a server may read it that speaks none."""
        method, version = self.parser.get_method(), self.parser.get_http_version()
        if method == b"CONNECT":
            self._refuse(InvalidRequest("this server is no proxy", code="invalid_http"))
            return b""
        self.parser = httptools.HttpRequestParser(self)
        lines = [b"%b: %b" % header for header in self.headers if header[0] not in (b"connection", b"upgrade")]
        head = b"\r\n".join([b"%b %b HTTP/%b" % (method, self.url, version.encode()), *lines, b"", b""])
        return head + rest

    def _last_request(self) -> None:
        """Nothing more is read from this connection."""
        self._broken = True
        if self.cycle is not None:
            self.cycle.keep_alive = False


def _path(url: bytes) -> bytes:
    """The path of a request's target, however it is written."""
    path = httptools.parse_url(url).path or b""
    return unquote_to_bytes(path) if b"%" in path else path


def _authorization(headers: list[tuple[bytes, bytes]]) -> str | None:
    return next((value.decode("latin-1") for name, value in headers if name == b"authorization"), None)


def _head_too_large() -> HeadTooLarge:
    return HeadTooLarge(f"the head has more than {MAX_HEADERS} headers or {MAX_HEAD} bytes")
