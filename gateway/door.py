# SPDX-License-Identifier: Apache-2.0
"""The HTTP/1.1 server's side of the hot routes, in front of the application, on the same port.

uvicorn takes this class in place of its own. A POST to one of the hot routes becomes a `Turn`, which a strand answers;
every other request goes the usual way to the FastAPI application. Requests that a client pipelines are answered in
their order, whichever way they go.

Bounds: a head has at most `MAX_HEAD` bytes in `MAX_HEADERS` lines, a body ``gateway.max_body`` bytes; a head or a body
that does not come within ``gateway.body_timeout`` is cut. Framing is llhttp's, strict: a request with both a length and
chunks, or with two lengths, is a 400 and the end of its connection.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from urllib.parse import unquote_to_bytes

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from contract.errors import BodyTimeout, HeadTooLarge, InvalidRequest, MillraceError, PayloadTooLarge
from contract.ids import new_id
from contract.money import NANO
from gateway.client import ClientGone
from gateway.metrics import DURATION, REQUESTS
from gateway.rendering import rendered
from gateway.sse import event_of
from gateway.strand import NEVER, Strand, parked

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
_LAST_CHUNK = b"0\r\n\r\n"

Answering = Callable[["Worker", "Turn"], Coroutine[Any, Any, None]]
"""What answers a turn; every error of its own ends in the turn."""


class Head(NamedTuple):
    """What the head of a request on a hot route says."""

    path: str
    answering: Answering
    headers: list[tuple[bytes, bytes]]
    """Names in lower case."""
    http11: bool
    keep_alive: bool


class Turn:
    """One request on a hot route, and its answer."""

    def __init__(self, door: "Door", head: Head) -> None:
        self.head = head
        self.path = head.path
        self.headers = head.headers
        self.request_id = ""
        self.model = ""
        """Label for metrics."""
        self.status: int | None = None
        """What has gone out; None while nothing has."""
        self.keep_alive = head.keep_alive
        self.body_complete = False
        self.answered = False
        """Everything has been said to the client, or it has gone."""
        self.response_complete = False
        """The next request may begin."""
        self.strand: Strand | None = None
        self._door = door
        self._pieces: list[bytes] = []
        self._size = 0
        self._told_to_continue = False
        self._chunked = head.http11
        self._began = door.worker.clock()

    def header(self, name: bytes) -> str | None:
        """The value of a request header; ``name`` in lower case."""
        for known, value in self.headers:
            if known == name:
                return value.decode("latin-1")
        return None

    # --- the request

    def taken(self) -> bytes:
        """The whole body, where it has come in one piece; empty where it has not."""
        pieces = self._pieces
        return pieces.pop() if self.body_complete and len(pieces) == 1 and len(pieces[0]) == self._size else b""

    async def body(self) -> bytes:
        """The whole body, bounded in size and time.

        Raises:
            PayloadTooLarge: it is, or says that it is, longer than ``gateway.max_body``.
            BodyTimeout: its end did not come within ``gateway.body_timeout``.
            InvalidRequest: its framing is wrong.
        """
        at_most = self._door.worker.settings.gateway.max_body
        if not self.body_complete:
            await self._rest(at_most)
        if self._size > at_most:
            raise PayloadTooLarge(f"the body is longer than the {at_most} bytes taken (gateway.max_body)")
        pieces, self._pieces = self._pieces, []
        return pieces[0] if len(pieces) == 1 and len(pieces[0]) == self._size else b"".join(pieces)

    async def _rest(self, at_most: int) -> None:
        length = self.header(b"content-length")
        if length is not None and int(length) > at_most:
            raise PayloadTooLarge(f"the body has {length} bytes; at most {at_most} are taken (gateway.max_body)")
        if self._waits_to_continue():
            self._told_to_continue = True
            self._door.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._wait(self._door.worker.settings.gateway.body_timeout, self._no_body_in_time)
        while not self.body_complete and self._size <= at_most:
            await parked()
        self._wait(NEVER)

    @property
    def size(self) -> int:
        """Bytes of the body that have come."""
        return self._size

    def take(self, piece: bytes) -> None:
        """A piece of the body has come; once it is too long, or answered already, it is counted and not kept."""
        self._size += len(piece)
        if self.answered:
            return
        if self._size <= self._door.worker.settings.gateway.max_body:
            self._pieces.append(piece)
        else:
            self.news()

    def news(self) -> None:
        """Something that the strand may wait for has happened."""
        if self.strand is not None:
            self.strand.wake()

    def _waits_to_continue(self) -> bool:
        return not self._told_to_continue and (self.header(b"expect") or "").lower() == "100-continue"

    def _no_body_in_time(self) -> BodyTimeout:
        seconds = self._door.worker.settings.gateway.body_timeout
        self.keep_alive = False  # nobody waits for the rest of it
        return BodyTimeout(f"the body did not come within {seconds:g} s (gateway.body_timeout)")

    # --- the answer

    @property
    def started(self) -> bool:
        """Whether a status has gone out."""
        return self.status is not None

    @property
    def blocked(self) -> bool:
        """Whether the client takes nothing at the moment."""
        return self._door.flow.write_paused

    def whole(self, status: int, headers: bytes, body: bytes) -> None:
        """Sends a whole answer; ``headers`` are lines with their ends."""
        self._door.transport.write(b"%bcontent-length: %d\r\n%b\r\n%b" % (self._head(status), len(body), headers, body))
        self._end()

    def start(self, headers: bytes, first: bytes) -> None:
        """Begins a stream with its first bytes."""
        self.keep_alive = self.keep_alive and self._chunked
        framing = b"transfer-encoding: chunked\r\n" if self._chunked else b""
        self._door.transport.write(b"%b%b%b\r\n%b" % (self._head(200), framing, headers, self._framed(first)))

    def send(self, piece: bytes) -> None:
        """Sends a piece of a stream; whoever has sent one looks at `blocked` next."""
        self._door.transport.write(self._framed(piece))

    def finish(self, piece: bytes) -> None:
        """Sends the last piece of a stream."""
        self._door.transport.write(self._framed(piece) + (_LAST_CHUNK if self._chunked else b""))
        self._end()

    def fail(self, error: MillraceError) -> None:
        """Tells the client of an error in the way that is still open: a status, or an event in its stream."""
        headers, body = rendered(error)
        if self.started:
            self.finish(event_of(body))  # without [DONE], as it is not done
        else:
            self.whole(error.status, headers, body)

    async def drained(self) -> None:
        """Returns when the client takes more, at once where it does.

        Raises:
            ClientGone: it takes nothing for ``gateway.send_timeout``.
        """
        if self.blocked:
            self._wait(self._door.worker.settings.gateway.send_timeout, ClientGone)
            while self._door.flow.write_paused:
                await parked()
            self._wait(NEVER)

    # --- its life

    def begin(self) -> None:
        """Its turn has come."""
        if self._door.transport.is_closing():
            self.gone()
            return
        self._door.deadline = NEVER
        self._door.active = self
        self.strand = Strand(self._run())
        self._door.worker.sweep.strands.add(self.strand)
        self.strand.wake()

    def gone(self) -> None:
        """The client has hung up."""
        if self.strand is not None:
            self.strand.throw(ClientGone())
        else:
            self._complete()

    async def _run(self) -> None:
        try:
            await self.head.answering(self._door.worker, self)
            if self.blocked:
                await self.drained()
        except ClientGone:
            self._door.transport.abort()
        finally:
            assert self.strand is not None
            self._door.worker.sweep.strands.discard(self.strand)
            self._door.active = None
            self.response_complete = True
            if self.answered:
                self._door.on_response_complete()
            else:
                self._complete()
                self._door.transport.abort()

    def _wait(self, seconds: float, late: Callable[[], BaseException] = TimeoutError) -> None:
        assert self.strand is not None
        self.strand.deadline = self._door.worker.now() + seconds
        self.strand.late = late

    def _head(self, status: int) -> bytes:
        self.status = status
        if not self.body_complete and self._waits_to_continue():
            self.keep_alive = False  # whether the body still comes, and so where the next request begins, is unknown
        closing = b"" if self.keep_alive else b"connection: close\r\n"
        return b"%bx-request-id: %b\r\n%b%b" % (
            STATUS_LINE[status], self.request_id.encode(), self._door.date(), closing,
        )  # fmt: skip

    def _framed(self, piece: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(piece), piece) if self._chunked and piece else piece

    def _end(self) -> None:
        self._complete()
        if self.keep_alive:
            return
        if self.body_complete:
            self._door.transport.close()
        else:
            self._door.linger()

    def _complete(self) -> None:
        self.answered = True
        worker = self._door.worker
        labels = (self.path, self.model)
        worker.metrics.count(REQUESTS, (*labels, str(self.status or 499)))
        worker.metrics.observe(DURATION, labels, (worker.clock() - self._began) / NANO)


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

    def data_received(self, data: bytes) -> None:
        began_here = self._between
        if self._broken or (began_here and self._came_before(data)):
            return
        self._chunk = len(data)
        if self._in_head:
            self._head_later += len(data)
        try:
            self.parser.feed_data(data)
            if self._in_head and self._head_later > MAX_HEAD:
                self._refuse(_head_too_large())
        except httptools.HttpParserUpgrade as asked:
            self._without_upgrade(data[asked.args[0] :])
        except httptools.HttpParserError as error:
            self._refuse(InvalidRequest(f"this is no HTTP request that can be taken: {error}", code="invalid_http"))
        ready, self._ready = self._ready, None
        if ready is not None:
            if began_here:
                self._remember(data, ready)
            ready.begin()

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

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.active is not None:
            self.active.news()

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
        path = self.url if self.url in self._hot else _path(self.url)
        answering = self._hot.get(path) if self.parser.get_method() == b"POST" else None
        if answering is None:
            self._to_the_application()
            return
        http11 = self.parser.get_http_version() == "1.1"
        keep_alive = http11 and self.parser.should_keep_alive()
        turn = Turn(self, Head(path.decode(), answering, self.headers, http11, keep_alive))
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
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
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
                if cycle.strand is not None:
                    cycle.strand.throw(error)
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

    def _without_upgrade(self, rest: bytes) -> None:
        """Reads the request again as one that asks for no other protocol, as a server may that speaks none."""
        method, version = self.parser.get_method(), self.parser.get_http_version()
        if method == b"CONNECT":
            self._refuse(InvalidRequest("this server is no proxy", code="invalid_http"))
            return
        self.parser = httptools.HttpRequestParser(self)
        lines = [b"%b: %b" % header for header in self.headers if header[0] not in (b"connection", b"upgrade")]
        head = b"\r\n".join([b"%b %b HTTP/%b" % (method, self.url, version.encode()), *lines, b"", b""])
        self.data_received(head + rest)

    def _last_request(self) -> None:
        """Nothing more is read from this connection."""
        self._broken = True
        if self.cycle is not None:
            self.cycle.keep_alive = False


def _path(url: bytes) -> bytes:
    """The path of a request's target, however it is written."""
    path = httptools.parse_url(url).path or b""
    return unquote_to_bytes(path) if b"%" in path else path


def _head_too_large() -> HeadTooLarge:
    return HeadTooLarge(f"the head has more than {MAX_HEADERS} headers or {MAX_HEAD} bytes")
