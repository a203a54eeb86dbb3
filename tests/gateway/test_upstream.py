# SPDX-License-Identifier: Apache-2.0
import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from contract.errors import EngineFailed, EngineTimeout
from gateway.upstream import NoConnection, Stopwatch, Timeouts, Upstream

PATIENT = Timeouts(connect=30.0, first_byte=30.0, read=30.0, total=30.0)


@contextlib.asynccontextmanager
async def pool(timeouts: Timeouts = PATIENT) -> AsyncIterator[Upstream]:
    upstream = Upstream(timeouts)
    try:
        yield upstream
    finally:
        await upstream.close()


@contextlib.asynccontextmanager
async def engine_that_says(*pieces: bytes) -> AsyncIterator[str]:
    """A server that answers any request with these bytes, and then closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


async def body_of(upstream: Upstream, url: str) -> bytes:
    async with upstream.post(url, b"{}", "id", Stopwatch()) as answer:
        return await answer.body()


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


async def test_the_watch_counts_the_wait_alone() -> None:
    ticks = iter(range(0, 1000, 10))
    watch = Stopwatch(clock=lambda: next(ticks))
    with watch:
        pass
    with watch:
        pass
    assert watch.waited_ns == 20
