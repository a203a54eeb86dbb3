# SPDX-License-Identifier: Apache-2.0
"""More connections than a worker takes, and than its process may open files."""

import asyncio
import contextlib
import resource
from pathlib import Path

import pytest

from contract.settings import GatewaySettings
from gateway.crowd import OTHER_FILES, most_connections
from tests.gateway.engine import FakeEngine
from tests.gateway.house import House, settings, spotless, until
from tests.gateway.raw import Asking, RawEngine, well
from tests.gateway.test_server import running
from tests.gateway.wire import Wire, body, request, wire


def counted(home: House, outcome: str) -> bool:
    return f'connections_crowded_total{{outcome="{outcome}"}}' in home.worker.metrics.page().decode()


@pytest.mark.parametrize(
    ("wanted", "concurrent", "files", "most"),
    [
        (None, 256, 1024, 1024 - 256 - OTHER_FILES), (100, 256, 1024, 100), (5000, 256, 1024, 1024 - 256 - OTHER_FILES),
        (None, 256, 128, 32), (None, 256, resource.RLIM_INFINITY, 2**20 - 256 - OTHER_FILES),
    ],
)  # fmt: skip
def test_the_bound_fits_into_the_files_that_the_process_may_open(
    wanted: int | None, concurrent: int, files: int, most: int
) -> None:
    assert most_connections(GatewaySettings(max_connections=wanted, max_concurrent=concurrent), files) == most


async def test_a_bound_that_does_not_fit_is_said(caplog: pytest.LogCaptureFixture) -> None:
    most_connections(GatewaySettings(max_connections=5000), 1024)
    assert "gateway.max_connections is 5000" in caplog.text


async def test_over_the_bound_the_longest_idle_goes_and_every_request_is_answered(
    engine: FakeEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    configured = settings(tmp_path, engine.url, gateway="max_connections: 4")
    async with spotless(engine, configured, caplog) as home, contextlib.AsyncExitStack() as stack:
        clients: list[Wire] = []
        for said in (b"", b"POST /v1/chat/comp", request(home), request(home)[:-5]):
            clients.append(await stack.enter_async_context(wire(home)))
            clients[-1].say(said)
            await until(lambda: len(home.worker.doors) == len(clients))
        assert (await clients[2].response()).status == 200
        await until(lambda: home.worker.limits.in_flight == 1)
        for client in clients[:2]:
            async with wire(home) as another:
                another.say(request(home))
                assert (await another.response()).status == 200
                with contextlib.suppress(ConnectionResetError):
                    assert await client.closed()
                assert len(home.worker.doors) <= 4
        clients[3].say(request(home)[-5:])
        assert (await clients[3].response()).status == 200
        clients[2].say(request(home))
        assert (await clients[2].response()).status == 200
        assert counted(home, "closed") and not counted(home, "refused")


async def test_where_every_connection_is_in_use_the_newest_is_told_to_come_again(
    raw_engine: RawEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def say(asking: Asking) -> None:
        await raw_engine.release.wait()
        await well(asking)

    raw_engine.say = say
    configured = settings(tmp_path, raw_engine.url, gateway="max_connections: 2")
    async with spotless(raw_engine, configured, caplog) as home, contextlib.AsyncExitStack() as stack:
        busy = [await stack.enter_async_context(wire(home)) for _ in range(2)]
        for client in busy:
            client.say(request(home))
        await until(lambda: home.worker.limits.in_flight == 2)
        for _ in range(3):
            async with wire(home) as late:
                answer = await late.response()
                assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "overloaded", "1")
                assert answer.headers["connection"] == "close"
                assert await late.closed()
        assert counted(home, "refused")
        raw_engine.release.set()
        assert [(await client.response()).status for client in busy] == [200, 200]


@pytest.mark.slow
async def test_a_gateway_with_few_descriptors_answers_through_a_flood_of_idle_connections(
    engine: FakeEngine, tmp_path: Path
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
    try:
        starting = running(tmp_path, engine)
        gateway = await starting.__aenter__()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        port = gateway.port
        flood = [await asyncio.open_connection("127.0.0.1", port) for _ in range(300)]
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gateway.secret}\r\n"
        said = f"{head}Content-Length: {len(body())}\r\n\r\n".encode() + body()
        for _ in range(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(said)
            assert (await Wire(reader, writer).response()).status == 200
            writer.transport.abort()
        for _, writer in flood:
            writer.transport.abort()
        assert gateway.process.returncode is None
        assert "Too many open files" not in (tmp_path / "log").read_text()
    finally:
        await starting.__aexit__(None, None, None)
