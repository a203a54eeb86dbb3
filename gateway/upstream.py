# SPDX-License-Identifier: Apache-2.0
"""Requests to engines: pooled HTTP/1.1 connections, four timeouts, and the time spent waiting.

    connect      to have a connection to the replica
    first byte   from the request to the first byte of the answer's body
    read         between two pieces of the answer
    total        for the whole answer

An answer that is left before its end takes its connection down, and the engine drops the work within its next step.
"""

import asyncio
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass

from contract.errors import EngineFailed, EngineTimeout, EngineUnavailable
from contract.settings import GatewaySettings
from gateway.connection import Connection, Origin, told
from gateway.strand import NEVER, Strand, Waiter, parked

KEEP_ALIVE = 2.0
"""Seconds an idle connection is kept: less than an engine keeps it, or it would be closed under a new request. As long
it has for the rest of an answer that has said it is done."""
MAX_ANSWER = 256 * 2**20
"""Bytes of a whole answer; more than any engine here can mean."""
CONNECT_TIMEOUT = "engine_connect_timeout"
"""Code of the one timeout after which the engine knows nothing of the request."""


class NoConnection(EngineUnavailable):
    """The replica cannot be reached, or went away before it answered anything."""


@dataclass(frozen=True)
class Timeouts:
    """Seconds; see the module."""

    connect: float
    first_byte: float
    read: float
    total: float

    @classmethod
    def of(cls, settings: GatewaySettings) -> "Timeouts":
        """As the settings have them."""
        return cls(settings.connect_timeout, settings.first_byte_timeout, settings.read_timeout, settings.total_timeout)


class Stopwatch:
    """What one request has asked of engines."""

    __slots__ = ("_clock", "_since", "reached", "waited_ns")

    def __init__(self, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        self._clock = clock
        self.waited_ns = 0
        """Nanoseconds spent waiting for them."""
        self.reached = False
        """Whether the last one asked has begun to get the request."""

    def start(self) -> None:
        """The wait begins."""
        self._since = self._clock()

    def stop(self) -> None:
        """There is news."""
        self.waited_ns += self._clock() - self._since


class Answer:
    """An engine's answer that is on its way."""

    __slots__ = ("_connection", "_end_by", "_first_by", "_pool", "_waiter", "_watch")

    def __init__(
        self, pool: "Upstream", connection: Connection, waiter: Waiter, first_by: float, end_by: float, watch: Stopwatch
    ) -> None:
        """From now on ``waiter`` hears of it."""
        self._pool = pool
        self._connection = connection
        self._waiter = connection.waiter = waiter
        self._first_by: float | None = first_by
        self._end_by = end_by
        self._watch = watch

    def heard_by(self, waiter: Waiter) -> None:
        """From now on it is ``waiter`` who hears of it."""
        self._waiter = self._connection.waiter = waiter

    @property
    def whole(self) -> bytes | None:
        """The whole body of an answer with status 200 that is there; it can still be read by `body`."""
        connection = self._connection
        if not connection.complete or connection.status != 200:
            return None
        return connection.pieces[0] if len(connection.pieces) == 1 else b"".join(connection.pieces)

    @property
    def began(self) -> bool:
        """Whether something of its body has come, or nothing will."""
        connection = self._connection
        return bool(connection.pieces) or connection.complete or connection.broken is not None

    @property
    def deadline(self) -> float:
        """Loop time at which it is `late`."""
        wanted_by = self._pool.now() + self._pool.timeouts.read if self._first_by is None else self._first_by
        return min(wanted_by, self._end_by)

    @property
    def status(self) -> int:
        """The status of its head."""
        return self._connection.status

    async def pieces(self) -> list[bytes]:
        """What has come of the body since the last call; an empty list is its end.

        Raises:
            EngineTimeout: it did not come in time.
            EngineFailed: the connection broke.
        """
        connection = self._connection
        while not connection.pieces:
            if connection.complete:
                return []
            await self._more()
        return self.more()

    def more(self) -> list[bytes]:
        """What has come of the body of an answer with status 200 since the last call, without waiting for it."""
        connection = self._connection
        if not connection.pieces or connection.status != 200:
            return []
        found, connection.pieces = connection.pieces, []
        self._first_by = None
        return found

    async def body(self) -> bytes:
        """The whole body.

        Raises:
            EngineTimeout, EngineFailed: as `pieces`; also where it is longer than `MAX_ANSWER`.
        """
        connection, seen = self._connection, 0
        while not connection.complete:
            if len(connection.pieces) != seen:
                seen, self._first_by = len(connection.pieces), None
                if sum(map(len, connection.pieces)) > MAX_ANSWER:
                    raise EngineFailed(f"the engine's answer is longer than {MAX_ANSWER} bytes")
            await self._more()
        pieces, connection.pieces = connection.pieces, []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def head(self) -> None:
        """Returns once the answer has begun.

        Raises:
            EngineTimeout: it did not begin in time.
            NoConnection: the connection broke first.
        """
        while not self._connection.status:
            if self._connection.broken is not None:
                raise NoConnection(f"the engine gave no answer: {self._connection.broken}", retry_after=1.0)
            await self._more()

    @property
    def again(self) -> bool:
        """Whether its connection served before, and may have been closed by the engine just as it was used again."""
        return self._connection.used

    def hold(self) -> None:
        """Takes nothing more from the engine for now."""
        if not self._connection.lost:
            self._connection.transport.pause_reading()

    def go_on(self) -> None:
        """After `hold`."""
        if not self._connection.lost:
            self._connection.transport.resume_reading()

    def done(self) -> None:
        """The answer has been used to its end: its connection may serve again."""
        self._pool.settle(self._connection)

    def abort(self) -> None:
        """Nobody wants the rest."""
        self._connection.drop()

    def done_or_abort(self) -> None:
        """Nobody wants the rest, if there is any."""
        if self._connection.complete:
            self.done()
        else:
            self.abort()

    async def _more(self) -> None:
        """Waits for news of the answer, as long as it may take."""
        connection, waiter = self._connection, self._waiter
        if connection.broken is not None and connection.status:
            raise EngineFailed(f"the engine's answer broke off: {connection.broken}")
        waiter.deadline, waiter.late = self.deadline, self.late
        self._watch.start()
        try:
            await parked()
        finally:
            self._watch.stop()
        waiter.deadline = NEVER

    def late(self) -> EngineTimeout:
        """The error of what has not come by its deadline."""
        timeouts = self._pool.timeouts
        if self._pool.now() >= self._end_by:
            return _timeout("total", timeouts.total, "the whole answer")
        if self._first_by is not None:
            return _timeout("first_byte", timeouts.first_byte, "the first byte of its answer")
        return _timeout("read", timeouts.read, "the next piece of its answer")


class Upstream:
    """The connections of one worker to every engine."""

    def __init__(self, timeouts: Timeouts) -> None:
        """Call it inside the running loop."""
        self.timeouts = timeouts
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time
        self._idle: dict[Origin, list[Connection]] = {}
        self._all: dict[Connection, list[Connection]] = {}
        """Every connection, and the idle ones of its origin."""
        self._tls: ssl.SSLContext | None = None

    def send(self, origin: Origin, request: bytes, waiter: Waiter, watch: Stopwatch) -> Answer | None:
        """Sends a request that is ready for the wire on an idle connection; None where there is none."""
        connection = self._take(origin)
        return None if connection is None else self._ask(connection, request, waiter, watch)

    async def post(
        self, origin: Origin, request: bytes, strand: Strand, watch: Stopwatch, sent: Answer | None = None
    ) -> Answer:
        """Sends a request that is ready for the wire; the answer as soon as its head is there.

        A connection that served before may be closed by the engine just as it is used again: then another one is taken.
        ``sent`` is the answer to a first sending.

        Raises:
            NoConnection: the replica was not reached, or closed before its answer began.
            EngineTimeout: the connection or the answer's head did not come in time.
        """
        watch.reached = sent is not None
        while True:
            if sent is None:
                connection = self._take(origin) or await self._connect(origin, strand, watch)
                answer = self._ask(connection, request, strand, watch)
            else:
                answer, sent = sent, None
                answer.heard_by(strand)
            try:
                await answer.head()
                return answer
            except NoConnection:
                if not answer.again:
                    raise
            except BaseException:
                answer.abort()
                raise

    def _ask(self, connection: Connection, request: bytes, waiter: Waiter, watch: Stopwatch) -> Answer:
        now = self.now()
        answer = Answer(self, connection, waiter, now + self.timeouts.first_byte, now + self.timeouts.total, watch)
        connection.ask(request)
        watch.reached = True
        return answer

    def settle(self, connection: Connection) -> None:
        """Takes a connection back whose answer nobody waits for any more."""
        connection.settle(self.now())
        if connection.complete:
            self.keep(connection)
        else:
            connection.on_settled = self.keep

    def sweep(self) -> None:
        """Closes connections that were idle for too long, or whose answer did not end after all."""
        now = self.now()
        for connection in list(self._all):
            if connection.lost:
                del self._all[connection]
            elif now - connection.idle_since > KEEP_ALIVE:
                connection.drop()
        for idle in self._idle.values():
            idle[:] = [each for each in idle if not each.transport.is_closing()]

    def close(self) -> None:
        """Closes every connection."""
        for connection in self._all:
            connection.drop()
        self._all.clear()
        self._idle.clear()

    def keep(self, connection: Connection) -> None:
        """Keeps a connection for another request, where it can carry one."""
        idle = self._all.get(connection)
        if idle is not None and connection.reusable():
            idle.append(connection)
        else:
            connection.drop()

    def _take(self, origin: Origin) -> Connection | None:
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            connection.idle_since = NEVER
            if not connection.transport.is_closing():
                return connection
        return None

    async def _connect(self, origin: Origin, strand: Strand, watch: Stopwatch) -> Connection:
        # A task of its own, as a strand has none for what asyncio does while it connects.
        task = self._loop.create_task(self._open(origin))
        strand.deadline = self.now() + self.timeouts.connect
        strand.late = self._no_connection_in_time
        watch.start()
        try:
            connection = await task
        except OSError as error:
            raise NoConnection(f"the engine cannot be reached: {told(error)}", retry_after=1.0) from error
        except BaseException:
            task.cancel()
            task.add_done_callback(_unwanted)  # it may be there already
            raise
        finally:
            watch.stop()
            strand.deadline = NEVER
        if connection.lost or connection.transport.is_closing():
            raise NoConnection("the engine closed the connection at once", retry_after=1.0)
        self._all[connection] = self._idle.setdefault(origin, [])
        return connection

    async def _open(self, origin: Origin) -> Connection:
        if origin.tls and self._tls is None:
            self._tls = ssl.create_default_context()
        _, connection = await self._loop.create_connection(
            Connection, origin.host, origin.port, ssl=self._tls if origin.tls else None
        )
        return connection

    def _no_connection_in_time(self) -> EngineTimeout:
        return _timeout("connect", self.timeouts.connect, "a connection")


def _unwanted(task: "asyncio.Task[Connection]") -> None:
    """Nobody waits any more for the connection that a task was to make."""
    if not task.cancelled() and task.exception() is None:
        task.result().drop()


def _timeout(which: str, seconds: float, what: str) -> EngineTimeout:
    return EngineTimeout(
        f"the engine did not give {what} within {seconds:g} s (gateway.{which}_timeout)", code=f"engine_{which}_timeout"
    )
