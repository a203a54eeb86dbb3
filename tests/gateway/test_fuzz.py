# SPDX-License-Identifier: Apache-2.0
"""Requests that nobody would write by hand: whatever comes, each gets one answer, and none is an error of the server.

The short form is the same at every run; `make soak` draws anew, and more.
"""

import asyncio
import itertools
import json
import logging
import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from gateway import door, worker
from tests.gateway.engine import FakeEngine
from tests.gateway.house import House, Ledger, house, leftovers, settings, until_none
from tests.gateway.wire import events_in

pytestmark = pytest.mark.slow

SOAK = int(os.environ.get("MILLRACE_SOAK", "0"))
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
fuzzed = examples(
    max_examples=20 * SOAK or 100, derandomize=not SOAK, deadline=None, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


@dataclass
class Served:
    """A gateway in a thread of its own."""

    home: House
    ledger: Ledger
    errors: list[logging.LogRecord] = field(default_factory=list)

    def connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", int(self.home.url.rsplit(":", 1)[1])), timeout=20)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection


class _Errors(logging.Handler):
    def __init__(self, found: list[logging.LogRecord]) -> None:
        super().__init__(logging.ERROR)
        self._found = found

    def emit(self, record: logging.LogRecord) -> None:
        self._found.append(record)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    patch, begun, found = pytest.MonkeyPatch(), threading.Event(), []
    patch.setattr(door, "KEEP_ALIVE", 0.2)
    patch.setattr(worker, "SWEEP_SECONDS", 0.02)
    loop = asyncio.new_event_loop()
    over = asyncio.Event()

    async def serve() -> None:
        engine = FakeEngine()
        await engine.start()
        more = "body_timeout: 200ms, max_body: 1MiB, max_concurrent: 16"
        async with house(
            engine, settings(tmp_path_factory.mktemp("fuzz"), engine.url, gateway=more, spool="1GiB")
        ) as home:
            found.append(Served(home, Ledger(home)))
            begun.set()
            await over.wait()
            await until_none(lambda: leftovers(home))
        await engine.stop()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert begun.wait(30)
    (running,) = found
    handler = _Errors(running.errors)
    logging.getLogger().addHandler(handler)
    yield running
    loop.call_soon_threadsafe(over.set)
    thread.join(60)
    loop.close()
    logging.getLogger().removeHandler(handler)
    patch.undo()
    assert running.errors == []


@dataclass
class Told:
    status: int
    headers: dict[str, str]
    body: bytes


def answers_in(said: bytes) -> list[Told]:
    """The answers in what a server has said, which must be nothing else."""
    found = []
    while said:
        head, end, said = said.partition(b"\r\n\r\n")
        assert end and head.startswith(b"HTTP/1.1 "), head
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        status, body = int(first.split(" ")[1]), b""
        if status == 100:
            continue
        if "transfer-encoding" in headers:
            while True:
                size, _, said = said.partition(b"\r\n")
                length = int(size, 16)
                piece, said = said[: length + 2], said[length + 2 :]
                assert piece.endswith(b"\r\n")
                body += piece[:-2]
                if not length:
                    break
        elif "content-length" in headers:
            length = int(headers["content-length"])
            assert len(said) >= length
            body, said = said[:length], said[length:]
        else:
            body, said = said, b""
        found.append(Told(status, headers, body))
    return found


def everything(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    said = b""
    try:
        while piece := connection.recv(2**16):
            said += piece
    except ConnectionResetError:
        pass  # it took nothing more
    return said


def checked(told: Told) -> None:
    """That an answer is one, or an error as every client expects it."""
    if told.status >= 400:
        error = json.loads(told.body)["error"]
        # What is stored cannot be read here: no logger runs.
        assert told.status < 500 or (told.status, error["code"]) == (503, "logger_unavailable"), told
        assert set(error) == {"message", "type", "param", "code"} and error["message"] and error["type"]


# --- bodies


def nested(depth: int, open_: str, close: str) -> str:
    return open_ * depth + close * depth


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(
        [2**63, -(2**63) - 1, 10**400, 1e308, 0, -1, "", "\x00", "data: [DONE]\n\n", "\u2028", "a" * 5000]
    )
)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)
FIELDS = [
    "messages",
    "model",
    "prompt",
    "stream",
    "stream_options",
    "n",
    "max_tokens",
    "max_completion_tokens",
    "stop",
    "tools",
    "tool_choice",
    "response_format",
    "logit_bias",
    "metadata",
    "user",
    "temperature",
    "top_logprobs",
    "seed",
    "logprobs",
    "best_of",
    "echo",
    "suffix",
    "audio",
    "store",
    "min_tokens",
    "bad_words",
    "role",
    "content",
]
MESSAGES = [
    {"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [{"id": "a", "function": {}}]},
    {"role": "tool", "content": [{"type": "text", "text": "x"}], "tool_call_id": "a"},
]  # fmt: skip
valid: dict[str, Any] = {"model": "plain", "messages": [MESSAGES[0]], "prompt": "x"}
mutated = st.builds(
    lambda base, more: {**{name: valid[name] for name in base}, **more},
    st.sampled_from([("model", "messages"), ("model", "prompt"), ("model",), ("messages",), ()]),
    st.dictionaries(
        st.sampled_from(FIELDS),
        anything | st.lists(st.sampled_from(MESSAGES) | anything, max_size=3) | st.booleans(),
        max_size=4,
    ),
)
documents = (anything | mutated | mutated).map(lambda document: json.dumps(document, ensure_ascii=False))
odd_documents = st.sampled_from(
    [
        "",
        " ",
        "{",
        "nul",
        '{"model":"plain","model":"nobody","messages":[]}',
        '{"a":NaN}',
        '{"a":-Infinity}',
        "\ufeff{}",
        nested(100_000, "[", "]"),
        nested(100_000, '{"a":', "}"),
        '{"messages":' + nested(300, "[", "]") + "}",
        '{"model":"plain","prediction":' + nested(200, "[", "]") + ',"messages":[{"role":"user","content":"x"}]}',
        '{"model":"\\ud800","messages":[]}',
        '{"\\ud800":1}',
        '{"seed":' + "9" * 5000 + "}",
        '{"temperature":1e999}',
        '{"model":"plain","messages":[{"role":"user","content":"x"}],"logit_bias":{"1":' + nested(200, "[", "]") + "}}",
        "{}//",
        "{'a':1}",
        '{"a":1,}',
        '{"a":01}',
        '{"a":"\t"}',
        "[" * 10 + "1" + "]" * 9,
    ]
)


def encoded(document: str, encoding: str) -> bytes:
    return document.encode(encoding, "surrogatepass")


bodies = (
    st.builds(encoded, documents | odd_documents, st.sampled_from(["utf-8"] * 6 + ["utf-16", "utf-32", "utf-8-sig"]))
    | st.binary(max_size=60)
    | st.builds(
        lambda body, at, more: body[: at % (len(body) + 1)] + more + body[at % (len(body) + 1) :],
        documents.map(str.encode), st.integers(0, 10**6), st.binary(max_size=3),
    )
    | st.builds(lambda body, at: body[: at % (len(body) + 1)], documents.map(str.encode), st.integers(0, 10**6))
)  # fmt: skip


@pytest.mark.soak
@pytest.mark.timeout(120 + 60 * SOAK)
@fuzzed
@given(body=bodies, path=st.sampled_from([CHAT, COMPLETIONS]))
def test_any_body_gets_one_answer_and_one_record(served: Served, body: bytes, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {served.home.secret}\r\n"
    with served.connect() as connection:
        connection.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        (told,) = answers_in(everything(connection))
    checked(told)
    (record,) = served.ledger.new()
    assert told.headers["x-request-id"] == record.id
    assert record.http_status == told.status
    assert record.status == ("complete" if told.status == 200 else "refused")
    if told.headers["content-type"].startswith("text/event-stream"):
        assert events_in(told.body)[-1] == b"[DONE]"
    assert served.errors == []


@pytest.mark.soak
@pytest.mark.timeout(120 + 60 * SOAK)
@fuzzed
@given(body=bodies)
def test_any_feedback_gets_one_answer(served: Served, body: bytes) -> None:
    head = (
        f"POST /v1/feedback HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {served.home.secret}\r\n"
    )
    with served.connect() as connection:
        connection.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        (told,) = answers_in(everything(connection))
    checked(told)
    assert served.errors == []


# --- framing


SMUGGLED = b"GET /v1/smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
TARGETS = [
    CHAT,
    COMPLETIONS,
    "/v1/feedback",
    "/v1/models",
    "/v1/models/a%2Fb%00",
    "//v1/chat/completions",
    f"{CHAT}?a=b%00",
    "*",
    f"http://x{CHAT}",
    "http://x:99999/",
    "/v1/ch%61t/completions",
    "/%",
    "/%ff",
    "/..%2f..",
    "/#",
    "/?",
    "x",
    "http://[::1",
    "/v1/chat/completions#a",
    "http:///v1/models",
    "/\u00e9",
    "/v1/models/" + "x" * 5000,
]
METHODS = ["POST", "GET", "HEAD", "PUT", "OPTIONS", "DELETE", "PATCH", "TRACE", "PRI", "M-SEARCH", "FOO", "post"]


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def whole(served: Served, target: str, framing: int, more: list[str], body: bytes = SMUGGLED) -> bytes:
    """A request of which every part is as the protocol has it."""
    first = [f"POST {target} HTTP/1.1", "Host: x", f"Authorization: Bearer {served.home.secret}", *more]
    if framing == 0:
        return "\r\n".join([*first, f"Content-Length: {len(body)}", "", ""]).encode() + body
    head = "\r\n".join([*first, "Transfer-Encoding: chunked", "", ""]).encode()
    pieces = [body] if framing == 1 else [body[at : at + 5] for at in range(0, len(body), 5)]
    extension = [b"", b';a="b"', b";x=1;y"][framing - 1]
    chunks = b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces)
    return head + chunks + b"0\r\n" + (b"X-Trailer: 1\r\n" if framing == 3 else b"") + b"\r\n"


requests = st.tuples(
    st.sampled_from([CHAT, COMPLETIONS, "/v1/feedback", "/v1/models", f"{CHAT}?x=1", f"http://x{CHAT}", "//v1/x"]),
    st.integers(0, 3),
    st.lists(st.sampled_from(["X-A: b", "X-B:", "x-c:  d  ", "Accept: */*", "Cookie: a=b; c", "X-A: b"]), max_size=3),
)


@pytest.mark.soak
@pytest.mark.timeout(120 + 60 * SOAK)
@examples(fuzzed, max_examples=5 * SOAK or 25)
@given(asked=st.lists(requests, min_size=1, max_size=4), cuts=st.lists(st.integers(0, 10**6), max_size=6))
def test_requests_in_any_pieces_get_one_answer_each_and_no_body_is_a_request(
    served: Served, asked: list[tuple[str, int, list[str]]], cuts: list[int]
) -> None:
    said = b"".join(whole(served, *each) for each in asked)
    with served.connect() as connection:
        for piece in split(said, cuts):
            connection.sendall(piece)
        told = answers_in(everything(connection))
    served.ledger.new()
    assert len(told) == len(asked)
    for answer in told:
        checked(answer)
        assert answer.status in (400, 404, 405)
        assert b"smuggled" not in answer.body
    assert served.errors == []


FRAMINGS = [
    "Content-Length: {0}",
    "Transfer-Encoding: chunked",
    "Content-Length: 0",
    "Content-Length:{0}",
    "content-length: {0}",
    "Transfer-Encoding: identity",
    "Transfer-Encoding: chunked, chunked",
    "Transfer-Encoding: gzip, chunked",
    "TE: chunked",
    "Transfer-Encoding:\tchunked",
    "Transfer-Encoding: \x0bchunked",
    "Transfer_Encoding: chunked",
    "Content-Length: {0}, {0}",
    "Content-Length: 0x10",
    "Content-Length: 1e1",
    "Transfer-Encoding: chunked\r\n , identity",
    "Content-Length:\r\n {0}",
    "Expect: 100-continue",
    "Upgrade: h2c",
    "Connection: upgrade",
    "Connection: close",
    "Connection: keep-alive, te",
    " Content-Length: {0}",
    "Content-Length : {0}",
    "Transfer-Encoding\x00: chunked",
    "\x00: a",
    "Content-Length: \u0664",
]
odd_bytes = st.sampled_from([b"\x00", b" ", b"\t", b"\n", b"\r", b"\r\n ", b":", b"\xff", b"\x7f", b"\r\n\t", b"\x0b"])


@pytest.mark.soak
@pytest.mark.timeout(120 + 120 * SOAK)
@fuzzed
@given(
    method=st.sampled_from(["POST"] * 8 + METHODS),
    target=st.sampled_from([CHAT] * 8 + TARGETS),
    version=st.sampled_from(["HTTP/1.1"] * 8 + ["HTTP/1.0", "HTTP/2.0", "HTTP/0.9", "http/1.1", "HTTP/1.10", ""]),
    framing=st.lists(st.sampled_from(FRAMINGS), max_size=3),
    odd=st.lists(st.tuples(st.integers(0, 10**6), odd_bytes), max_size=2),
    body=st.sampled_from([b"0\r\n\r\n", b"5\r\nabcde\r\n0\r\n\r\n", b"{}", b""]),
    cuts=st.lists(st.integers(0, 10**6), max_size=3),
)
def test_what_is_hardly_a_request_is_answered_or_closed_and_never_half_of_another(
    served: Served, method: str, target: str, version: str, framing: list[str], odd: list[tuple[int, bytes]],
    body: bytes, cuts: list[int],
) -> None:  # fmt: skip
    """A request lies in the body that the length counts: nothing that is done to the head may make it one."""
    inside = body + SMUGGLED
    lines = [f"{method} {target} {version}", "Host: x", f"Authorization: Bearer {served.home.secret}"]
    text = "\r\n".join([*lines, *(line.format(len(inside)) for line in framing), "", ""])
    head = text.encode("utf-8")
    for at, more in odd:
        at %= len(head) - 3  # not into the blank line
        head = head[:at] + more + head[at:]
    with served.connect() as connection:
        try:
            for piece in split(head + inside, cuts):
                connection.sendall(piece)
        except ConnectionError:
            pass  # refused already
        said = everything(connection)
    served.ledger.new()
    told = answers_in(said) if b" HEAD " not in head and not head.startswith(b"HEAD") else []
    for answer in told:
        checked(answer)
    if any(line.lower().replace(" ", "") == "content-length:{0}" for line in framing):
        assert b"smuggled" not in said, head
    assert served.errors == []
