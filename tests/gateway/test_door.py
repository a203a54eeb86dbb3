# SPDX-License-Identifier: Apache-2.0
"""The hot routes over raw sockets: framing, bounds, pipelining, and clients that misbehave."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway import door
from gateway.keys import list_keys, revoke_key
from tests.gateway.engine import FakeEngine, Script
from tests.gateway.house import ASK, House, house, settings, until

CHAT = "/v1/chat/completions"


@dataclass
class Response:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> Any:
        return json.loads(self.body)["error"]["code"]


@dataclass
class Wire:
    """A client that says exactly what a test wants."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def say(self, data: bytes) -> None:
        self.writer.write(data)

    async def response(self) -> Response:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(await self.reader.readline(), 16):
                body += (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readexactly(2)
        elif "content-length" in headers:
            body = await self.reader.readexactly(int(headers["content-length"]))
        else:
            body = await self.reader.read()
        return Response(int(head[0].split(" ")[1]), headers, body)

    async def closed(self) -> bool:
        """Whether the server has closed, with nothing more to say."""
        return await self.reader.read() == b""


@contextlib.asynccontextmanager
async def wire(home: House) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(home.url.rsplit(":", 1)[1]))
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "plain", "messages": ASK, **fields}).encode()


def head(home: House, *lines: str, target: str = CHAT, version: str = "1.1") -> bytes:
    first = [f"POST {target} HTTP/{version}", "Host: x", f"Authorization: Bearer {home.secret}"]
    return "\r\n".join([*first, *lines, "", ""]).encode()


def request(home: House, payload: bytes | None = None, **options: str) -> bytes:
    payload = body() if payload is None else payload
    return head(home, f"Content-Length: {len(payload)}", **options) + payload


async def test_a_body_in_chunks_is_one_body(home: House) -> None:
    async with wire(home) as client:
        payload = body()
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (payload[:7], payload[7:9], payload[9:]))
        client.say(head(home, "Transfer-Encoding: chunked") + chunks + b"0\r\n\r\n")
        assert (await client.response()).status == 200


async def test_a_request_cut_at_every_byte_is_the_same_request(home: House) -> None:
    whole = request(home)
    for cut in range(1, len(whole), 7):
        async with wire(home) as client:
            client.say(whole[:cut])
            await client.writer.drain()
            await asyncio.sleep(0)
            client.say(whole[cut:])
            assert (await client.response()).status == 200


async def test_a_head_that_came_before_means_the_same_with_another_body(home: House) -> None:
    async with wire(home) as first, wire(home) as second:
        for number, client in enumerate((first, first, second, first)):
            client.say(request(home, body(user=f"u{number}")))
            assert (await client.response()).status == 200
    assert len(home.worker.heads) == 1
    assert [record.user for record in home.invocations()] == ["u0", "u1", "u2", "u3"]


async def test_a_head_that_came_before_is_not_taken_for_the_end_of_another_request(home: House) -> None:
    one, payload = request(home), body()
    async with wire(home) as client:
        client.say(one)
        assert (await client.response()).status == 200
        # As the body of a request, as its second half, with more behind it, and with less.
        for said in (
            head(home, f"Content-Length: {len(one)}") + one,
            head(home, "Transfer-Encoding: chunked") + b"%x\r\n%b\r\n0\r\n\r\n" % (len(one), one),
        ):
            client.say(said)
            answer = await client.response()
            assert (answer.status, answer.code) == (400, "invalid_json")
        client.say(head(home, f"Content-Length: {len(one)}"))
        await until(lambda: home.worker.limits.in_flight == 1)
        client.say(one)
        assert (await client.response()).code == "invalid_json"
        client.say(one + one)
        assert [(await client.response()).status for _ in range(2)] == [200, 200]
        client.say(one[:-1])
        await client.writer.drain()
        client.say(payload[-1:] + one)
        assert [(await client.response()).status for _ in range(2)] == [200, 200]
    assert len(home.engine.chats()) == 5


async def test_a_key_that_was_revoked_is_refused_though_its_head_came_before(home: House) -> None:
    async with wire(home) as client:
        client.say(request(home))
        assert (await client.response()).status == 200
        with home.worker.database.begin() as connection:
            (key,) = list_keys(connection)
            revoke_key(connection, key.id)
        revoked = home.worker.keys
        await until(lambda: home.worker.keys is not revoked)
        client.say(request(home))
        assert (await client.response()).status == 401


async def test_heads_are_remembered_up_to_a_bound(home: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "MAX_KNOWN_HEADS", 3)
    async with wire(home) as client:
        for number in range(10):
            client.say(request(home).replace(b"Host: x", b"Host: x%d" % number))
            assert (await client.response()).status == 200
            assert len(home.worker.heads) <= 3
        known = dict(home.worker.heads)
        client.say(request(home).replace(b"Host: x", b"Host: x\r\nX: " + b"y" * door.MAX_KNOWN_HEAD))
        assert (await client.response()).status == 200
        assert home.worker.heads == known


async def test_pipelined_requests_are_answered_in_their_order_on_whichever_way(home: House) -> None:
    models = head(home, target="/v1/models").replace(b"POST", b"GET")
    async with wire(home) as client:
        client.say(request(home, body(user="1")) + models + request(home, body(user="2", stream=True)) + request(home))
        first, listed, streamed, last = [await client.response() for _ in range(4)]
    assert [first.status, listed.status, streamed.status, last.status] == [200] * 4
    assert json.loads(listed.body)["object"] == "list"
    assert streamed.body.endswith(b"data: [DONE]\n\n")
    assert [record.user for record in home.invocations() if record.status == "complete"] == ["1", "2", None]


@pytest.mark.parametrize(
    "target",
    [CHAT, f"{CHAT}?api-version=1", f"http://x{CHAT}", "/v1/chat%2Fcompletions", "/v1/ch%61t/completions"],
)
async def test_however_the_route_is_written_it_is_the_same(home: House, target: str) -> None:
    async with wire(home) as client:
        client.say(request(home, target=target))
        assert (await client.response()).status == 200


@pytest.mark.parametrize(
    "target", ["//v1/chat/completions", "/v1/chat/completions/", "/V1/chat/completions", "/v1/chat"]
)
async def test_another_path_is_another_route(home: House, target: str) -> None:
    async with wire(home) as client:
        client.say(request(home, target=target))
        answer = await client.response()
    assert (answer.status, answer.code) == (404, "not_found")


@pytest.mark.parametrize(
    "framing",
    [
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Content-Length: 5"],
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: 5", "Content-Length: 5"],
        ["Content-Length: -5"],
        ["Content-Length: +5"],
        ["Content-Length: 5x"],
        ["Content-Length: 99999999999999999999999"],
        ["Content-Length : 5"],
        ["Transfer-Encoding: chunked, identity"],
        ["Transfer-Encoding : chunked"],
        ["Transfer-Encoding: xchunked"],
        [" folded: header"],
        ["A: b\x00c"],
    ],
)
async def test_what_two_servers_could_read_differently_is_refused_and_closed(home: House, framing: list[str]) -> None:
    smuggled = request(home, target="/v1/models").replace(b"POST", b"GET")
    async with wire(home) as client:
        client.say(head(home, *framing) + b"0\r\n\r\n" + smuggled)
        answer = await client.response()
        assert (answer.status, answer.code) == (400, "invalid_http")
        assert answer.headers["connection"] == "close"
        assert answer.headers["x-request-id"].startswith("req_")
        assert await client.closed()
    assert home.engine.chats() == []


@pytest.mark.parametrize("chunk", [b"zz\r\n", b"-1\r\n", b"5\r\nabcdefg\r\n", b"5;\n\r\n", b"fffffffffffffffff\r\n"])
async def test_a_body_that_is_framed_wrongly_is_refused_and_closed(home: House, chunk: bytes) -> None:
    async with wire(home) as client:
        client.say(head(home, "Transfer-Encoding: chunked"))
        await until(lambda: home.worker.limits.in_flight == 1)
        client.say(chunk)
        answer = await client.response()
        assert (answer.status, answer.code) == (400, "invalid_http")
        assert await client.closed()
    assert (home.final().status, home.final().error_code) == ("refused", "invalid_http")
    assert home.worker.limits.in_flight == 0


async def test_a_body_that_is_framed_wrongly_is_refused_by_the_other_routes_too(home: House) -> None:
    async with wire(home) as client:
        client.say(head(home, "Transfer-Encoding: chunked", target="/v1/feedback"))
        await until(lambda: home.worker.limits.in_flight == 1)
        client.say(b"zz\r\n")
        answer = await client.response()
        assert (answer.status, answer.code) == (400, "invalid_http")
        await until(lambda: home.worker.limits.in_flight == 0)


@pytest.mark.parametrize("second", ["Transfer-Encoding: chunked", "Content-Length: 5\r\nContent-Length: 6"])
async def test_a_pipelined_request_that_is_framed_wrongly_does_not_harm_the_one_before(
    home: House, second: str
) -> None:
    async with wire(home) as client:
        client.say(request(home, body(stream=True)) + head(home, second) + b"zz\r\n" + request(home))
        answer = await client.response()
        assert (answer.status, answer.body.endswith(b"data: [DONE]\n\n")) == (200, True)
        assert await client.closed()
    assert len(home.engine.chats()) == 1
    assert home.final().status == "complete"


async def test_garbage_after_a_request_does_not_harm_its_answer(home: House) -> None:
    home.engine.script = Script(hold_after=1)
    async with wire(home) as client:
        client.say(request(home, body(stream=True)))
        await until(lambda: home.engine.chats())
        client.say(b"\x00\x01 this is no request\r\n\r\n")
        await asyncio.sleep(0)
        home.engine.release.set()
        answer = await client.response()
        assert (answer.status, answer.body.endswith(b"data: [DONE]\n\n")) == (200, True)
        assert await client.closed()
    assert home.final().status == "complete"


@pytest.mark.parametrize(
    "lines",
    [
        [f"X-{number}: y" for number in range(door.MAX_HEADERS)],
        ["X: " + "y" * door.MAX_HEAD],
        [f"X-{number}: {'y' * 1000}" for number in range(100)],
    ],
)
@pytest.mark.parametrize("pieces", [1, 50])
async def test_a_head_over_the_bounds_is_431(home: House, lines: list[str], pieces: int) -> None:
    data = head(home, *lines, "Content-Length: 0")
    step = len(data) // pieces + 1
    async with wire(home) as client:
        for start in range(0, len(data), step):
            client.say(data[start : start + step])
            await asyncio.sleep(0)
        answer = await client.response()
    assert (answer.status, answer.code) == (431, "head_too_large")


async def test_a_head_that_never_ends_is_cut(home: House) -> None:
    async with wire(home) as client:
        client.say(b"POST /v1/chat/completions HTTP/1.1\r\nX: ")
        with contextlib.suppress(ConnectionError):
            for _ in range(1000):
                client.say(b"y" * 1000)
                await client.writer.drain()
                if client.reader.at_eof() or client.writer.is_closing():
                    break
        answer = await client.response()
    assert answer.status == 431


async def test_a_long_body_before_a_short_head_is_no_long_head(home: House) -> None:
    big = body(messages=[{"role": "user", "content": "x" * 200_000}])
    async with wire(home) as client:
        client.say(request(home, big) + request(home, big) + request(home))
        assert [(await client.response()).status for _ in range(3)] == [200, 200, 200]


async def test_a_client_that_waits_to_be_told_is_told_once_its_key_is_good(home: House) -> None:
    payload = body()
    async with wire(home) as client:
        client.say(head(home, f"Content-Length: {len(payload)}", "Expect: 100-continue"))
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.say(payload)
        answer = await client.response()
        assert (answer.status, answer.headers.get("connection")) == (200, None)


async def test_a_client_that_waits_to_be_told_and_may_not_come_in_is_closed(home: House) -> None:
    async with wire(home) as client:
        refused = head(home, "Content-Length: 10", "Expect: 100-continue").replace(home.secret.encode(), b"wrong")
        client.say(refused)
        answer = await client.response()
        assert (answer.status, answer.headers["connection"]) == (401, "close")
        assert await client.closed()


async def test_a_refused_request_leaves_its_connection_in_order(home: House) -> None:
    async with wire(home) as client:
        first = request(home, body(messages=[{"role": "user", "content": "x" * 100_000}]))
        client.say(first.replace(home.secret.encode(), b"mr-wrong")[:5000])
        assert (await client.response()).status == 401
        client.say(first.replace(home.secret.encode(), b"mr-wrong")[5000:] + request(home))
        assert (await client.response()).status == 200


@pytest.mark.parametrize("streamed", [False, True])
async def test_http_1_0_gets_an_answer_that_ends_with_its_connection(home: House, streamed: bool) -> None:
    async with wire(home) as client:
        client.say(request(home, body(stream=streamed), version="1.0"))
        answer = await client.response()
        assert "transfer-encoding" not in answer.headers
        assert answer.headers["connection"] == "close"
        assert answer.body.endswith(b"data: [DONE]\n\n" if streamed else b"}")
        assert await client.closed()


async def test_a_client_that_closes_after_its_answer_is_let_go(home: House) -> None:
    async with wire(home) as client:
        client.say(request(home).replace(b"Host: x", b"Host: x\r\nConnection: close"))
        assert (await client.response()).headers["connection"] == "close"
        assert await client.closed()


async def test_an_upgrade_is_not_made_and_the_request_is_answered(home: House) -> None:
    upgrade = b"Host: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAAA"
    async with wire(home) as client:
        client.say(request(home).replace(b"Host: x", upgrade))
        assert (await client.response()).status == 200
        client.say(request(home))
        assert (await client.response()).status == 200


@pytest.mark.parametrize(
    "said",
    [b"", b"POST /v1/chat", b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-Slow: "],
    ids=["", "line", "head"],
)
async def test_a_client_that_does_not_come_to_its_request_is_cut(
    engine: FakeEngine, tmp_path: Path, said: bytes
) -> None:
    async with (
        house(engine, settings(tmp_path, engine.url, gateway="body_timeout: 200ms")) as home,
        wire(home) as client,
    ):
        client.say(said)
        with contextlib.suppress(ConnectionResetError):
            assert await client.closed()
        await until(lambda: not home.worker.doors)


async def test_a_body_that_does_not_come_is_408(engine: FakeEngine, tmp_path: Path) -> None:
    async with (
        house(engine, settings(tmp_path, engine.url, gateway="body_timeout: 200ms")) as home,
        wire(home) as client,
    ):
        client.say(request(home)[:-5])
        answer = await client.response()
        assert (answer.status, answer.code) == (408, "body_timeout")
        assert await client.closed()
        assert home.final().error_code == "body_timeout"


async def test_a_tunnel_is_refused(home: House) -> None:
    async with wire(home) as client:
        client.say(b"CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n")
        answer = await client.response()
    assert (answer.status, answer.code) == (400, "invalid_http")


async def test_an_idle_connection_is_closed(home: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "KEEP_ALIVE", 0.2)
    async with wire(home) as client:
        client.say(request(home))
        await client.response()
        with contextlib.suppress(ConnectionResetError):
            assert await client.closed()


async def test_a_body_longer_than_it_may_be_is_refused_before_it_is_read(engine: FakeEngine, tmp_path: Path) -> None:
    async with house(engine, settings(tmp_path, engine.url, gateway="max_body: 20kB")) as home:
        async with wire(home) as client:
            client.say(head(home, "Content-Length: 30000"))
            answer = await client.response()
            assert (answer.status, answer.code) == (413, "payload_too_large")
        async with wire(home) as client:
            client.say(head(home, "Transfer-Encoding: chunked") + b"9c40\r\n" + b"x" * 0x9C40)
            assert (await client.response()).status == 413
        async with wire(home) as client:
            # Whole and valid up to the bound, and all of it in one read.
            payload = body().ljust(20_000)
            chunks = b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(payload), payload, 1, b" ")
            client.say(head(home, "Transfer-Encoding: chunked") + chunks)
            assert (await client.response()).status == 413
        assert engine.chats() == []


async def test_a_client_that_is_gone_before_its_turn_leaves_nothing(home: House) -> None:
    home.engine.script = Script(hold_after=1)
    async with wire(home) as client:
        client.say(request(home, body(stream=True)) + request(home))
        await until(lambda: home.engine.chats())
    # Reading is paused while a second request waits, so the end is seen when the first stream writes.
    home.engine.release.set()
    await until(lambda: not home.worker.doors)
    await until(lambda: home.worker.limits.in_flight == 0)
    assert home.worker.sweep.waiting == set()
