# SPDX-License-Identifier: Apache-2.0
"""Bodies that are compressed: refused by the name of their coding, on every route, before they are read."""

import gzip
import json

import pytest

from tests.gateway.house import House
from tests.gateway.wire import CHAT, body, head, request, wire

ROUTES = [CHAT, "/v1/feedback"]


def in_chunks(payload: bytes) -> bytes:
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(payload), payload)


@pytest.mark.parametrize("target", ROUTES)
@pytest.mark.parametrize(
    ("lines", "shown"),
    [
        (["Transfer-Encoding: gzip, chunked"], "gzip, chunked"),
        (["Transfer-Encoding: GZIP,chunked"], "gzip, chunked"),
        (["Transfer-Encoding: gzip", "Transfer-Encoding: chunked"], "gzip, chunked"),
        (["Transfer-Encoding: identity, chunked"], "identity, chunked"),
        (["Transfer-Encoding: gzip"], "gzip"),
        (["Transfer-Encoding: " + "x" * 5000 + ", chunked"], "x" * 100 + "…"),
    ],
)
async def test_a_transfer_coding_beside_chunks_is_a_400_that_names_it_and_closes(
    home: House, target: str, lines: list[str], shown: str
) -> None:
    async with wire(home) as client:
        client.say(head(home, *lines, target=target) + in_chunks(gzip.compress(body())))
        answer = await client.response()
        assert (answer.status, answer.code, answer.headers["connection"]) == (400, "invalid_http", "close")
        assert f"transfer-encoding: {shown} is not taken" in json.loads(answer.body)["error"]["message"]
        assert await client.closed()
    assert home.engine.chats() == []


@pytest.mark.parametrize("target", ROUTES)
@pytest.mark.parametrize(
    ("lines", "shown"),
    [
        (["Content-Encoding: gzip"], "gzip"),
        (["content-encoding: BR"], "br"),
        (["Content-Encoding: identity, zstd"], "identity, zstd"),
        (["Content-Encoding: identity", "Content-Encoding: deflate"], "identity, deflate"),
    ],
)
async def test_a_content_coding_is_a_415_that_names_it(home: House, target: str, lines: list[str], shown: str) -> None:
    payload = gzip.compress(body())
    async with wire(home) as client:
        client.say(head(home, *lines, f"Content-Length: {len(payload)}", target=target) + payload)
        answer = await client.response()
        assert (answer.status, answer.code) == (415, "unsupported_encoding")
        assert f"content-encoding: {shown} is not taken" in json.loads(answer.body)["error"]["message"]
        assert (answer.headers["accept-encoding"], answer.headers["connection"]) == ("identity", "close")
        assert await client.closed()
    assert home.engine.chats() == []


@pytest.mark.parametrize(
    "line",
    ["Content-Encoding: identity", "Content-Encoding:", "Transfer-Encoding: Chunked"],
)
async def test_what_changes_nothing_in_a_body_is_taken(home: House, line: str) -> None:
    whole = head(home, line) + in_chunks(body()) if line.startswith("Transfer") else None
    async with wire(home) as client:
        client.say(whole or request(home).replace(b"Host: x", b"Host: x\r\n" + line.encode()))
        assert (await client.response()).status == 200


async def test_a_coded_request_that_is_pipelined_does_not_harm_the_one_before(home: House) -> None:
    async with wire(home) as client:
        client.say(request(home, body(stream=True)) + head(home, "Transfer-Encoding: gzip, chunked") + in_chunks(b"x"))
        answer = await client.response()
        assert (answer.status, answer.body.endswith(b"data: [DONE]\n\n")) == (200, True)
        assert await client.closed()
    assert home.final().status == "complete"


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["Transfer-Encoding: gzip"], 400),
        (["Transfer-Encoding: gzip, chunked"], 400),
        (["Content-Encoding: gzip", "Transfer-Encoding: chunked"], 415),
        ([f"X-{number}: y" for number in range(200)] + ["Transfer-Encoding: chunked"], 431),
    ],
)
async def test_a_head_is_refused_once_whatever_follows_it(tidy_home: House, lines: list[str], status: int) -> None:
    async with wire(tidy_home) as client:
        client.say(head(tidy_home, *lines) + b"zz\r\n")
        assert (await client.response()).status == status
        assert await client.closed()
