# SPDX-License-Identifier: Apache-2.0
"""Requests to engines: pooled connections, four timeouts, and the time spent waiting.

    connect      to have a connection to the replica
    first byte   from the request to the first byte of the answer's body
    read         between two pieces of the answer
    total        for the whole answer

Closing an `Answer` before its end closes the connection, and the engine drops the work within its next step.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from types import SimpleNamespace

import aiohttp

from contract.errors import EngineFailed, EngineTimeout, EngineUnavailable
from contract.settings import GatewaySettings

KEEP_ALIVE = 2.0
"""Seconds an idle connection is kept: less than an engine keeps it, or it would be closed under a new request."""
_SETTLE_SECONDS = 0.1
MAX_ANSWER = 256 * 2**20
"""Bytes of a whole answer; more than any engine here can mean."""


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

    def __init__(self, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        self._clock = clock
        self.waited_ns = 0
        """Nanoseconds spent waiting for them."""
        self.reached = False
        """Whether the last one asked has begun to get the request."""

    def __enter__(self) -> None:
        self._since = self._clock()

    def __exit__(self, *_: object) -> None:
        self.waited_ns += self._clock() - self._since


class Answer:
    """An engine's answer whose body is still to be read."""

    def __init__(
        self, response: aiohttp.ClientResponse, timeouts: Timeouts, first_by: float, end_by: float, watch: Stopwatch
    ) -> None:
        self.status = response.status
        self.content_type = response.content_type
        self._response = response
        self._timeouts = timeouts
        self._first_by: float | None = first_by
        self._end_by = end_by
        self._watch = watch

    async def piece(self) -> bytes:
        """The next piece of the body; empty at its end.

        Raises:
            EngineTimeout: it did not come in time.
            EngineFailed: the connection broke.
        """
        loop = asyncio.get_running_loop()
        wanted_by = loop.time() + self._timeouts.read if self._first_by is None else self._first_by
        deadline = min(wanted_by, self._end_by)
        try:
            with self._watch:
                async with asyncio.timeout_at(deadline):
                    found = await self._response.content.readany()
        except TimeoutError:
            raise self._too_late(deadline) from None
        except (aiohttp.ClientError, OSError) as error:
            raise EngineFailed(f"the engine's answer broke off: {_told(error)}") from error
        self._first_by = None
        return found

    async def settle(self) -> None:
        """Reads the end of a body that has said it is done, so that its connection can be used again."""
        with suppress(TimeoutError, aiohttp.ClientError, OSError):
            async with asyncio.timeout(_SETTLE_SECONDS):
                while await self._response.content.readany():
                    pass

    async def body(self) -> bytes:
        """The whole body.

        Raises:
            EngineTimeout, EngineFailed: as `piece`; also where it is longer than `MAX_ANSWER`.
        """
        pieces, size = [], 0
        while piece := await self.piece():
            pieces.append(piece)
            size += len(piece)
            if size > MAX_ANSWER:
                raise EngineFailed(f"the engine's answer is longer than {MAX_ANSWER} bytes")
        return b"".join(pieces)

    def _too_late(self, deadline: float) -> EngineTimeout:
        if deadline == self._end_by:
            return _timeout("total", self._timeouts.total, "the whole answer")
        if self._first_by is not None:
            return _timeout("first_byte", self._timeouts.first_byte, "the first byte of its answer")
        return _timeout("read", self._timeouts.read, "the next piece of its answer")


class Upstream:
    """The connections of one worker to every engine."""

    def __init__(self, timeouts: Timeouts) -> None:
        """Call it inside the running loop."""
        self._timeouts = timeouts
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=timeouts.connect),
            headers={"Accept-Encoding": "identity", "User-Agent": "millrace"},
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=[_noting_the_start()],
        )

    async def close(self) -> None:
        """Closes every connection."""
        await self.session.close()

    @asynccontextmanager
    async def post(self, url: str, body: bytes, request_id: str, watch: Stopwatch) -> AsyncIterator[Answer]:
        """Sends a JSON body; the answer as soon as its head is there. Leaving the block early aborts the work.

        Raises:
            NoConnection: the replica was not reached, or closed before its answer began.
            EngineTimeout: the connection or the answer's head did not come in time.
        """
        now = asyncio.get_running_loop().time()
        first_by, end_by = now + self._timeouts.first_byte, now + self._timeouts.total
        headers = {"Content-Type": "application/json", "X-Request-Id": request_id}
        with watch:
            response = await self._head(url, body, headers, min(first_by, end_by), watch)
        try:
            yield Answer(response, self._timeouts, first_by, end_by, watch)
        finally:
            # A response read to its end has given its connection back already; one cut short takes it down.
            response.close()

    async def _head(
        self, url: str, body: bytes, headers: dict[str, str], deadline: float, watch: Stopwatch
    ) -> aiohttp.ClientResponse:
        try:
            async with asyncio.timeout_at(deadline):
                return await self.session.post(
                    url, data=body, headers=headers, allow_redirects=False, trace_request_ctx=watch
                )
        except aiohttp.ConnectionTimeoutError:
            raise _timeout("connect", self._timeouts.connect, "a connection") from None
        except TimeoutError:
            if self._timeouts.total <= self._timeouts.first_byte:
                raise _timeout("total", self._timeouts.total, "the whole answer") from None
            raise _timeout("first_byte", self._timeouts.first_byte, "the first byte of its answer") from None
        except aiohttp.ClientError as error:
            raise NoConnection(f"the engine cannot be reached: {_told(error)}", retry_after=1.0) from error


def _noting_the_start() -> aiohttp.TraceConfig:
    async def note(_session: object, context: SimpleNamespace, _sent: object) -> None:
        if context.trace_request_ctx is not None:  # else it is no request of a client's
            context.trace_request_ctx.reached = True

    tracing = aiohttp.TraceConfig()
    tracing.on_request_headers_sent.append(note)
    return tracing


def _timeout(which: str, seconds: float, what: str) -> EngineTimeout:
    return EngineTimeout(
        f"the engine did not give {what} within {seconds:g} s (gateway.{which}_timeout)", code=f"engine_{which}_timeout"
    )


def _told(error: BaseException) -> str:
    """The kind of failure alone: its text may name hosts and ports that clients need not see."""
    return type(error).__name__
