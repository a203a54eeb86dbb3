# SPDX-License-Identifier: Apache-2.0
"""Clients that misbehave. Whatever they do, they pay for what they got, and nothing is held for them afterwards."""

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.engine import FakeEngine
from tests.gateway.house import House, Ledger, settings, spotless, until
from tests.gateway.raw import Asking, RawEngine, chunked, chunks, framed, whole_answer
from tests.gateway.wire import Wire, body, events_in, head, request, text_in, wire

pytestmark = pytest.mark.slow

STREAM = {"stream": True, "stream_options": {"include_usage": True}}


def address(home: House) -> tuple[str, int]:
    return "127.0.0.1", int(home.url.rsplit(":", 1)[1])


async def events_of(client: Wire, number: int) -> list[bytes]:
    """The first so many events of a stream in chunks."""
    await client.reader.readuntil(b"\r\n\r\n")
    found: list[bytes] = []
    while len(found) < number:
        size = int(await client.reader.readline(), 16)
        found += events_in((await client.reader.readexactly(size + 2))[:-2])
    return found


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("half", [0, 15])
async def test_a_hang_up_at_any_event_pays_for_what_came_and_frees_the_engine(
    raw_engine: RawEngine, raw_home: House, half: int, reset: bool
) -> None:
    """Events: the role, two words, the usage; ``half`` an event may be on its way besides."""
    ledger = Ledger(raw_home)
    for number in range(5):
        said = asyncio.Event()

        async def say(asking: Asking, number: int = number, said: asyncio.Event = said) -> None:
            told = [b"data: " + event + b"\n\n" for event in chunks(asking, "he", "llo")]
            pieces = [*told[:number], b"".join(told[number:])[:half]]
            await asking.say(chunked(*pieces, end=False))
            said.set()
            await asking.left()

        raw_engine.say = say
        async with wire(raw_home) as client:
            client.say(request(raw_home, body(**STREAM)))
            got = await events_of(client, number) if number else []
            await said.wait()
            if not reset:
                client.writer.close()
        record = await ledger.next()
        assert (record.status, record.http_status) == ("aborted", 200 if number else None)
        await until(lambda wanted=number + 1: raw_engine.gone == wanted)
        expected = [(0, "estimated"), (0, "reported"), (1, "reported"), (2, "reported"), (2, "reported")][number]
        assert (record.completion_tokens, record.usage_source) == expected
        (choice,) = json.loads(record.choices or "") if number else [{"message": {"content": ""}}]
        assert choice["message"]["content"] == text_in(got)
        assert record.cost is not None and record.cost > 0


async def test_a_hang_up_after_the_last_event_is_a_whole_answer(raw_engine: RawEngine, raw_home: House) -> None:
    async def say(asking: Asking) -> None:
        told = [b"data: " + event + b"\n\n" for event in [*chunks(asking, "he", "llo"), b"[DONE]"]]
        await asking.say(chunked(*told, end=False))
        await asking.left()

    raw_engine.say, ledger = say, Ledger(raw_home)
    async with wire(raw_home) as client:
        client.say(request(raw_home, body(**STREAM)))
        assert (await events_of(client, 5))[-1] == b"[DONE]"
    record = await ledger.next()
    assert (record.status, record.completion_tokens) == ("complete", 2)
    await until(lambda: raw_engine.gone == 1)  # after a moment for the end of its answer


async def test_a_client_that_closes_its_side_has_hung_up(raw_engine: RawEngine, raw_home: House) -> None:
    async def say(asking: Asking) -> None:
        await asking.left()

    raw_engine.say, ledger = say, Ledger(raw_home)
    for streamed in (False, True):
        async with wire(raw_home) as client:
            client.say(request(raw_home, body(stream=streamed)))
            await until(lambda: raw_home.worker.limits.in_flight == 1)
            client.writer.write_eof()
            assert await client.closed()
        assert (await ledger.next()).status == "aborted"


async def test_a_reader_that_is_slow_holds_the_engine_and_not_the_memory(
    raw_engine: RawEngine, raw_home: House
) -> None:
    words = ["x" * 50_000] * 400

    async def say(asking: Asking) -> None:
        told = [b"data: " + event + b"\n\n" for event in [*chunks(asking, *words), b"[DONE]"]]
        await asking.say(chunked(end=False), *(b"%x\r\n%b\r\n" % (len(event), event) for event in told))
        await asking.say(b"0\r\n\r\n")

    raw_engine.say, ledger = say, Ledger(raw_home)
    upstream, doors = raw_home.worker.upstream, raw_home.worker.doors
    reader, writer = await asyncio.open_connection(*address(raw_home), limit=2**10)
    client = Wire(reader, writer)
    client.say(request(raw_home, body(stream=True)))
    await until(lambda: any(not each.lost and not each.transport.is_reading() for each in upstream._all))
    (door,) = doors
    held = door.transport.get_write_buffer_size()
    held += sum(len(piece) for connection in upstream._all for piece in connection.pieces)
    assert held < 1_000_000
    told = await client.response()
    writer.transport.abort()
    assert text_in(events_in(told.body)) == "".join(words)
    assert (await ledger.next()).status == "complete"


async def test_a_client_that_never_reads_is_cut_on_the_other_routes_too(
    engine: FakeEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    configured = settings(tmp_path, engine.url, gateway="send_timeout: 300ms")
    async with spotless(engine, configured, caplog) as home:
        with deaf(home) as client:
            asked = b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Pad: %b\r\n\r\n" % (b"y" * 1000)
            await until(lambda: stuffed(client, asked * 100))
            await until(lambda: not home.worker.doors)


async def test_a_client_that_never_reads_its_last_answer_is_cut(
    raw_engine: RawEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def say(asking: Asking) -> None:
        await asking.say(framed(whole_answer(asking, "x" * answer)))

    raw_engine.say = say
    configured = settings(tmp_path, raw_engine.url, gateway="send_timeout: 300ms", policy='payload: "off"')
    async with spotless(raw_engine, configured, caplog) as home:
        ledger = Ledger(home)
        with deaf(home) as client:
            # The first fills what the kernel keeps for a reader; what is left of it and of the second is little.
            answer = 20_000
            while True:
                client.sendall(request(home))
                await ledger.next()
                (door,) = home.worker.doors
                if door.transport.get_write_buffer_size():
                    break
            answer = 10
            client.sendall(request(home).replace(b"Host: x", b"Host: x\r\nConnection: close"))
            await until(lambda: not home.worker.doors)


@contextlib.contextmanager
def deaf(home: House) -> Iterator[socket.socket]:
    """A client that reads nothing, and kernels that keep little for it."""
    for server in home.server.servers:
        for listener in server.sockets:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        client.connect(address(home))
        client.setblocking(False)
        yield client


def stuffed(client: socket.socket, data: bytes) -> bool:
    """Sends; true once nothing more is taken."""
    try:
        client.send(data)
    except (BlockingIOError, ConnectionError):
        return True
    return False


async def test_a_burst_of_requests_waits_in_the_kernel(tidy_home: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncio.selector_events._SelectorSocketTransport.max_size", 4096)
    one = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    async with wire(tidy_home) as client:
        client.say(one * 2000)
        waiting = 0
        for _ in range(2000):
            assert (await client.response()).status == 200
            waiting = max(waiting, *(len(door.pipeline) for door in tidy_home.worker.doors))
    assert waiting <= 2 * 4096 // len(one)


async def test_a_burst_of_upgrades_is_a_burst_of_requests(tidy_home: House) -> None:
    one = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    async with wire(tidy_home) as client:
        client.say(one * 1500)
        assert {(await client.response()).status for _ in range(1500)} == {200}


async def test_a_body_in_tiny_chunks_takes_its_own_size(tidy_home: House) -> None:
    payload = body(messages=[{"role": "user", "content": "x" * 200_000}])
    pieces = [payload[at : at + 2] for at in range(0, len(payload), 2)]
    async with wire(tidy_home) as client:
        client.say(head(tidy_home, "Transfer-Encoding: chunked"))
        client.say(b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces))
        await until(lambda: any(door.active and door.active.size == len(payload) for door in tidy_home.worker.doors))
        (door,) = tidy_home.worker.doors
        assert door.active is not None
        assert len(door.active._pieces) < 200
        client.say(b"0\r\n\r\n")
        assert (await client.response()).status == 200
    (asked,) = tidy_home.engine.chats()
    assert asked["messages"][0]["content"] == "x" * 200_000


@pytest.mark.parametrize(("bound", "status"), [("10MiB", 200), ("9MiB", 413)])
@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_a_body_of_nearly_ten_megabytes(
    engine: FakeEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture, framing: str, bound: str, status: int
) -> None:
    payload = body(messages=[{"role": "user", "content": "x" * (10 * 2**20 - 1000)}])
    configured = settings(tmp_path, engine.url, gateway=f"max_body: {bound}", spool="64MiB")
    async with spotless(engine, configured, caplog) as home:
        async with wire(home) as client:
            if framing == "length":
                client.say(request(home, payload))
            else:
                client.say(head(home, "Transfer-Encoding: chunked") + b"%x\r\n%b\r\n" % (len(payload), payload))
                client.say(b"0\r\n\r\n")
            assert (await client.response()).status == status
        assert home.final().http_status == status


@pytest.mark.parametrize("cut", ["line", "head", "body", "chunk"])
@pytest.mark.parametrize("reset", [False, True])
async def test_a_client_that_goes_amid_its_request_leaves_nothing(tidy_home: House, cut: str, reset: bool) -> None:
    ledger, whole = Ledger(tidy_home), request(tidy_home)
    said = {
        "line": whole[:10], "head": whole[:60], "body": whole[:-5],
        "chunk": head(tidy_home, "Transfer-Encoding: chunked") + b"ff\r\nabc",
    }[cut]  # fmt: skip
    async with wire(tidy_home) as client:
        client.say(said)
        if cut in ("body", "chunk"):
            await until(lambda: tidy_home.worker.limits.in_flight == 1)
        else:
            await until(lambda: tidy_home.worker.doors)
        if not reset:
            client.writer.close()
    await until(lambda: not tidy_home.worker.doors)
    assert [record.status for record in ledger.new()] == (["aborted"] if cut in ("body", "chunk") else [])
    assert tidy_home.engine.chats() == []


async def test_a_body_that_drips_is_cut_in_its_time(
    engine: FakeEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with spotless(engine, settings(tmp_path, engine.url, gateway="body_timeout: 500ms"), caplog) as home:
        for target in ("/v1/chat/completions", "/v1/feedback"):
            async with wire(home) as client:
                client.say(head(home, "Content-Length: 100000", target=target))
                dripping = asyncio.create_task(drip(client))
                assert (await client.response()).code == "body_timeout"
                dripping.cancel()


async def drip(client: Wire) -> None:
    while True:
        client.say(b" ")
        await asyncio.sleep(0.05)


async def test_many_clients_that_do_all_of_it_at_once_leave_nothing(raw_engine: RawEngine, raw_home: House) -> None:
    async def say(asking: Asking) -> None:
        await asking.say(chunked(b"data: " + chunks(asking, "he", "llo")[0] + b"\n\n", end=False))
        await asking.left()

    async def rude(number: int) -> None:
        async with wire(raw_home) as client:
            client.say(request(raw_home, body(stream=True))[: None if number % 3 else 200])
            if number % 3 == 1:
                await client.reader.readuntil(b"\r\n\r\n")
            elif number % 3 == 2:
                client.writer.close()

    raw_engine.say = say
    await asyncio.gather(*(rude(number) for number in range(60)))
    await until(lambda: not raw_home.worker.doors)
    statuses = [record.status for record in raw_home.invocations() if record.status != "open"]
    assert set(statuses) == {"aborted"}
    assert len(statuses) == len({record.id for record in raw_home.invocations()})
