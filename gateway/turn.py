# SPDX-License-Identifier: Apache-2.0
"""One request on a hot route: its head, its body as it comes, and the ways to answer it."""

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, NamedTuple

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from contract.errors import BodyTimeout, MillraceError, PayloadTooLarge
from contract.money import NANO
from gateway.client import ClientGone
from gateway.rendering import rendered
from gateway.sse import event_of
from gateway.strand import NEVER, Strand, Waiter, parked

if TYPE_CHECKING:
    from gateway.door import Door
    from gateway.worker import Worker

_LAST_CHUNK = b"0\r\n\r\n"
_MAX_PIECES = 64
"""Of a body; what comes after is added to the last one, as a piece may be a byte and takes forty more of memory."""

Answering = Callable[["Worker", "Turn"], None]
"""What answers a turn: it ends the turn, or leaves a `Waiter` in it. Every error of its own ends in the turn."""


class Head(NamedTuple):
    """What the head of a request on a hot route says."""

    path: str
    answering: Answering
    headers: list[tuple[bytes, bytes]]
    """Names in lower case."""
    http11: bool
    keep_alive: bool
    authorization: str | None
    """Its `Authorization` header."""


class Turn:
    """One request on a hot route, and its answer."""

    __slots__ = (
        "_began", "_door", "_pieces", "_size", "_told_to_continue", "answered", "body_complete", "head", "keep_alive",
        "limits", "model", "request_id", "response_complete", "status", "waiter",
    )  # fmt: skip

    def __init__(self, door: "Door", head: Head) -> None:
        self.head = head
        self.request_id = ""
        self.limits = b""
        """Header lines on what is left of the limits of its key."""
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
        self.waiter: Waiter | None = None
        """Who is to hear of news."""
        self._door = door
        self._pieces: list[bytes | bytearray] = []
        self._size = 0
        self._told_to_continue = False
        self._began = door.worker.clock()

    def header(self, name: bytes) -> str | None:
        """The value of a request header; ``name`` in lower case."""
        for known, value in self.head.headers:
            if known == name:
                return value.decode("latin-1")
        return None

    # --- the request

    def taken(self) -> bytes:
        """The whole body, where it has come in one piece; empty where it has not."""
        pieces = self._pieces
        return bytes(pieces.pop()) if self.body_complete and len(pieces) == 1 and len(pieces[0]) == self._size else b""

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
        return b"".join(pieces)

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
        if self._size > self._door.worker.settings.gateway.max_body:
            self.news()
        elif len(self._pieces) < _MAX_PIECES:
            self._pieces.append(piece)
        else:
            if len(self._pieces) == _MAX_PIECES:
                self._pieces.append(bytearray())
            self._pieces[-1] += piece

    def news(self) -> None:
        """Something that somebody may wait for has happened."""
        if self.waiter is not None:
            self.waiter.wake()

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
        self.keep_alive = self.keep_alive and self.head.http11
        framing = b"transfer-encoding: chunked\r\n" if self.head.http11 else b""
        self._door.transport.write(b"%b%b%b\r\n%b" % (self._head(200), framing, headers, self._framed(first)))

    def send(self, piece: bytes) -> None:
        """Sends a piece of a stream; whoever has sent one looks at `blocked` next."""
        self._door.transport.write(self._framed(piece))

    def finish(self, piece: bytes) -> None:
        """Sends the last piece of a stream."""
        self._door.transport.write(self._framed(piece) + (_LAST_CHUNK if self.head.http11 else b""))
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
        self.head.answering(self._door.worker, self)

    def wait(self, waiter: Waiter) -> None:
        """From now on ``waiter`` hears of news, and answers."""
        waiting = self._door.worker.sweep.waiting
        if self.waiter is not None:
            waiting.discard(self.waiter)
        self.waiter = waiter
        waiting.add(waiter)

    def run(self, answering: Coroutine[Any, Any, None]) -> Strand:
        """Has a coroutine answer, up to its first wait at once."""
        strand = Strand(self._run(answering))
        self.wait(strand)
        strand.wake()
        return strand

    def gone(self) -> None:
        """The client has hung up."""
        if self.waiter is not None:
            self.waiter.throw(ClientGone())
        else:
            self._complete()

    def end(self) -> None:
        """Nothing more will be done for it: the next request may begin."""
        door = self._door
        if self.waiter is not None:
            door.worker.sweep.waiting.discard(self.waiter)
            self.waiter = None  # they hold each other, and would be left to the garbage collector
        door.active = None
        self.response_complete = True
        if self.answered:
            door.on_response_complete()
        else:
            self._complete()
            door.transport.abort()

    async def _run(self, answering: Coroutine[Any, Any, None]) -> None:
        try:
            await answering
            if self.blocked:
                await self.drained()
        except ClientGone:
            self._door.transport.abort()
        finally:
            self.end()

    def _wait(self, seconds: float, late: Callable[[], BaseException] = TimeoutError) -> None:
        assert self.waiter is not None
        self.waiter.deadline = self._door.worker.now() + seconds
        self.waiter.late = late

    def _head(self, status: int) -> bytes:
        self.status = status
        door = self._door
        if not self.body_complete and self._waits_to_continue():
            self.keep_alive = False  # whether the body still comes, and so where the next request begins, is unknown
        if door.worker.draining and not door.pipeline:
            self.keep_alive = False  # the client's next request is better asked elsewhere
        closing = b"" if self.keep_alive else b"connection: close\r\n"
        return b"%bx-request-id: %b\r\n%b%b%b" % (
            STATUS_LINE[status], self.request_id.encode(), door.date(), self.limits, closing,
        )  # fmt: skip

    def _framed(self, piece: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(piece), piece) if self.head.http11 and piece else piece

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
        seconds = (worker.clock() - self._began) / NANO
        worker.metrics.answered(self.head.path, self.model, self.status or 499, seconds)
