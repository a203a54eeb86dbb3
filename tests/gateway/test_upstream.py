# SPDX-License-Identifier: Apache-2.0
import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from contract.errors import EngineFailed, EngineTimeout
from gateway.connection import Origin
from gateway.strand import Strand, Sweep
from gateway.upstream import NoConnection, Stopwatch, Timeouts, Upstream
from tests.gateway.house import until

PATIENT = Timeouts(connect=30.0, first_byte=30.0, read=30.0, total=30.0)
REQUEST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"


@contextlib.asynccontextmanager
async def pool(timeouts: Timeouts = PATIENT) -> AsyncIterator[Upstream]:
    upstream = Upstream(timeouts)
    try:
        yield upstream
    finally:
        upstream.close()


@contextlib.asynccontextmanager
async def engine_that_says(*pieces: bytes) -> AsyncIterator[str]:
    """A server that answers any request with these bytes, and then closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            with contextlib.suppress(ConnectionError):
                await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


async def body_of(upstream: Upstream, url: str) -> bytes:
    """Asks for an answer as a request would: in a strand, whose deadlines somebody looks at."""
    outcome: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def ask() -> None:
        try:
            answer = await upstream.post(Origin.of(url), REQUEST, strand, Stopwatch())
            outcome.set_result(await answer.body())
            answer.done()
        except Exception as error:
            outcome.set_exception(error)

    sweep = Sweep()
    sweeping = asyncio.create_task(sweep.run())
    strand = Strand(ask())
    sweep.waiting.add(strand)
    strand.wake()
    try:
        return await outcome
    finally:
        sweeping.cancel()


async def test_a_host_that_does_not_answer_is_a_connect_timeout() -> None:
    # A listener whose queue is full drops what else comes: a connection to it hangs.
    with socket.socket() as listener, contextlib.ExitStack() as others:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            other = others.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(listener.getsockname())
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        async with pool(Timeouts(connect=0.2, first_byte=30.0, read=30.0, total=30.0)) as upstream:
            with pytest.raises(EngineTimeout) as caught:
                await body_of(upstream, url)
    assert caught.value.code == "engine_connect_timeout"


async def test_a_port_that_nobody_listens_on_is_no_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    async with pool() as upstream:
        with pytest.raises(NoConnection) as caught:
            await body_of(upstream, f"http://127.0.0.1:{port}/")
    assert str(port) not in caught.value.message


@pytest.mark.parametrize("said", [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nContent-"])
async def test_what_is_no_http_answer_is_no_connection(said: bytes) -> None:
    async with pool() as upstream, engine_that_says(said) as url:
        with pytest.raises(NoConnection):
            await body_of(upstream, url)


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfour",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfour\r\n",
    ],
)
async def test_an_answer_that_breaks_off_is_a_failed_engine(said: bytes) -> None:
    async with pool() as upstream, engine_that_says(said) as url:
        with pytest.raises(EngineFailed):
            await body_of(upstream, url)


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfour",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nfo\r\n2\r\nur\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nfour",
        b"HTTP/1.0 200 OK\r\n\r\nfour",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfour",
    ],
)
async def test_however_an_answer_is_framed_it_is_whole(said: bytes) -> None:
    async with pool() as upstream:
        async with engine_that_says(said) as url:
            assert await body_of(upstream, url) == b"four"
        async with engine_that_says(*[said[i : i + 1] for i in range(len(said))]) as url:
            assert await body_of(upstream, url) == b"four"


async def test_an_answer_whose_head_never_ends_is_no_connection() -> None:
    async with pool() as upstream, engine_that_says(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 2**20) as url:
        with pytest.raises(NoConnection):
            await body_of(upstream, url)


@contextlib.asynccontextmanager
async def engine_that_closes(after: int) -> AsyncIterator[tuple[str, list[int]]]:
    """A server that answers so many requests of a connection, and closes on the next one."""
    served: list[int] = []
    open_ones = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_ones
        open_ones += 1
        served.append(0)
        with contextlib.suppress(asyncio.IncompleteReadError):
            for _ in range(after):
                await reader.readuntil(b"{}")
                served[-1] += 1
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfour")
            await reader.readuntil(b"{}")
        writer.close()
        open_ones -= 1

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", served
    await until(lambda: open_ones == 0)


async def test_a_connection_that_is_closed_as_it_is_used_again_is_replaced() -> None:
    async with engine_that_closes(after=2) as (url, served), pool() as upstream:
        assert [await body_of(upstream, url) for _ in range(5)] == [b"four"] * 5
        assert served == [2, 2, 1]


async def test_a_fresh_connection_that_is_closed_is_no_connection() -> None:
    async with engine_that_closes(after=0) as (url, served), pool() as upstream:
        with pytest.raises(NoConnection):
            await body_of(upstream, url)
        assert served == [0]


@pytest.mark.parametrize(
    ("url", "origin", "target"),
    [
        ("http://a", Origin("a", 80, False, ""), b"/v1/x HTTP/1.1\r\nHost: a:80\r\n"),
        ("https://a:8/base/", Origin("a", 8, True, "/base"), b"/base/v1/x HTTP/1.1\r\nHost: a:8\r\n"),
        ("http://[::1]:8000", Origin("::1", 8000, False, ""), b"/v1/x HTTP/1.1\r\nHost: [::1]:8000\r\n"),
    ],
)
def test_where_a_base_url_leads(url: str, origin: Origin, target: bytes) -> None:
    assert Origin.of(url) == origin
    assert origin.head("/v1/x").startswith(b"POST " + target)


async def test_the_watch_counts_the_wait_alone() -> None:
    ticks = iter(range(0, 1000, 10))
    watch = Stopwatch(clock=lambda: next(ticks))
    watch.start()
    watch.stop()
    watch.start()
    watch.stop()
    assert watch.waited_ns == 20


class Made:
    """A connection that was made, as far as anybody looks at it before the first request."""

    lost = used = False

    def __init__(self, *, closing: bool = False) -> None:
        self.transport = self
        self.closing, self.dropped = closing, False

    def is_closing(self) -> bool:
        return self.closing

    def drop(self) -> None:
        self.dropped = True


async def connecting(made: Made, monkeypatch: pytest.MonkeyPatch) -> tuple[Strand, list[BaseException]]:
    """A strand that waits for ``made``, and what it ends in."""
    upstream, ended = Upstream(Timeouts(5, 5, 5, 5)), list[BaseException]()

    async def opened(_origin: Origin) -> Made:
        return made

    monkeypatch.setattr(upstream, "_open", opened)

    async def ask() -> None:
        try:
            await upstream.post(Origin("h", 1, False, ""), REQUEST, strand, Stopwatch())
        except Exception as error:
            ended.append(error)
            await asyncio.sleep(0.01)  # whoever goes on waits for something else

    strand = Strand(ask())
    strand.wake()
    return strand, ended


async def test_a_connection_that_comes_when_nobody_waits_any_more_is_dropped(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = Made()
    strand, ended = await connecting(made, monkeypatch)
    # After the task that connects has ended, and before the strand hears of it.
    asyncio.get_running_loop().call_soon(strand.throw, ValueError("gone"))
    await until(lambda: strand.done)
    assert ([type(error) for error in ended], made.dropped) == ([ValueError], True)
    assert caplog.records == [], "what it waited for before does not wake it any more"


async def test_a_connection_that_is_closed_as_it_is_made_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    strand, ended = await connecting(Made(closing=True), monkeypatch)
    await until(lambda: strand.done)
    assert [type(error) for error in ended] == [NoConnection]
