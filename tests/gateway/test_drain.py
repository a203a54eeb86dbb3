# SPDX-License-Identifier: Apache-2.0
"""A worker that is going away: whatever it still answers sends its clients elsewhere."""

import pytest

from tests.gateway.engine import Script
from tests.gateway.house import House, until
from tests.gateway.wire import CHAT, body, head, request, wire


async def test_a_refusal_in_a_drain_closes_its_connection(home: House) -> None:
    async with wire(home) as client:
        home.worker.drain()
        client.say(request(home))
        answer = await client.response()
        assert (answer.status, answer.code) == (503, "shutting_down")
        assert (answer.headers["connection"], answer.headers["retry-after"]) == ("close", "1")
        assert await client.closed()


async def test_a_refusal_in_a_drain_reaches_a_client_whose_body_is_still_on_its_way(home: House) -> None:
    async with wire(home) as client:
        home.worker.drain()
        client.say(head(home, "Content-Length: 100000") + b"x" * 50_000)
        answer = await client.response()
        assert (answer.status, answer.headers["connection"]) == (503, "close")
        client.say(b"x" * 50_000)
        assert await client.closed()


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_answer_that_begins_in_a_drain_is_the_last_of_its_connection(home: House, streamed: bool) -> None:
    home.engine.script = Script(hold_after=0)
    async with wire(home) as client:
        client.say(request(home, body(stream=streamed)))
        await until(lambda: home.engine.chats())
        home.worker.drain()
        home.engine.release.set()
        answer = await client.response()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await client.closed()
    assert home.final().status == "complete"


@pytest.mark.parametrize(
    ("method", "target", "status"), [("GET", "/ready", 503), ("GET", "/v1/models", 200), ("POST", "/v1/feedback", 503)]
)
async def test_the_other_routes_close_their_connections_in_a_drain(
    home: House, method: str, target: str, status: int
) -> None:
    async with wire(home) as client:
        home.worker.drain()
        client.say(head(home, "Content-Length: 0", target=target).replace(b"POST", method.encode()))
        answer = await client.response()
        assert (answer.status, answer.headers["connection"]) == (status, "close")
        assert await client.closed()


async def test_of_pipelined_requests_the_last_answer_alone_closes(home: House) -> None:
    home.engine.script = Script(hold_after=1)
    async with wire(home) as client:
        client.say(request(home, body(stream=True)) + request(home) + request(home))
        await until(lambda: home.engine.chats())
        home.worker.drain()
        home.engine.release.set()
        answers = [await client.response() for _ in range(3)]
        assert await client.closed()
    assert [answer.status for answer in answers] == [200, 503, 503]
    assert [answer.headers.get("connection") for answer in answers] == [None, None, "close"]


async def test_without_a_drain_a_connection_stays(home: House) -> None:
    async with wire(home) as client:
        for target in (CHAT, "/v1/feedback"):
            client.say(head(home, "Content-Length: 2", target=target) + b"{}")
            answer = await client.response()
            assert (answer.status, answer.headers.get("connection")) == (400, None)
