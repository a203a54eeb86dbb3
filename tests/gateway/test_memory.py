# SPDX-License-Identifier: Apache-2.0
"""The memory of a worker does not grow with the requests that it has answered: a process of its own, under load."""

import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

import httptools
import psutil
import pytest
import yaml

from contract.settings import load_settings
from tests.gateway.engine import BASE
from tests.gateway.house import make_key

SOAK = int(os.environ.get("MILLRACE_SOAK", "0"))
REQUESTS = SOAK * 1000 or 24_000
CONNECTIONS = 32
MOST_MEMORY = 150 * 2**20
MOST_GROWTH = 2**20 if SOAK >= 1000 else 12 * 2**20
"""Bytes in 100,000 requests; a short run cannot tell the allocator's last steps from a small leak."""
MODELS = json.dumps({"object": "list", "data": [{"id": BASE, "object": "model"}]}).encode()


class Engine(asyncio.Protocol):
    """Answers whole or streamed with constants, as fast as one can."""

    def __init__(self) -> None:
        head = {"id": "chatcmpl-0", "object": "chat.completion", "created": 1, "model": BASE}
        used = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
        message = {"role": "assistant", "content": "hello " * 30}
        answer = {"index": 0, "message": message, "finish_reason": "stop"}
        self.whole = framed({**head, "choices": [answer], "usage": used})
        choice = {"index": 0, "delta": {"content": "hello"}, "finish_reason": None}
        events = [{**head, "choices": [choice]}] * 4 + [{**head, "choices": [], "usage": used}]
        said = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + b"data: [DONE]\n\n"
        self.streamed = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (
            len(said),
            said,
        )
        self.parser = httptools.HttpRequestParser(self)
        self.path = self.body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self.path, self.body = url, b""

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        if self.path == b"/v1/models":
            self.transport.write(framed(json.loads(MODELS)))
        elif self.path == b"/health":
            self.transport.write(framed({}))
        else:
            self.transport.write(self.streamed if b'"stream":true' in self.body else self.whole)


def framed(document: object) -> bytes:
    body = json.dumps(document, separators=(",", ":")).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


async def load(port: int, secret: str, requests: int) -> None:
    """So many requests over `CONNECTIONS`, every fourth a stream, each of its own length."""

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for count in range(number, requests, CONNECTIONS):
            content = "x" * (count * 7919 % 4000)
            asked = {"model": "plain", "messages": [{"role": "user", "content": content}], "stream": count % 4 == 0}
            body = json.dumps(asked).encode()
            writer.write(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (secret.encode(), len(body), body)
            )
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            if count % 4 == 0:
                await reader.readuntil(b"\r\n0\r\n\r\n")
            else:
                length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length: "))
                await reader.readexactly(int(length[16:]))
        writer.close()

    await asyncio.gather(*(client(number) for number in range(CONNECTIONS)))


async def answers(port: int) -> None:
    """Returns once the gateway is ready."""
    deadline = time.monotonic() + 60
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n")
            if (await reader.readline()).startswith(b"HTTP/1.1 200"):
                writer.close()
                return
            writer.close()
        except ConnectionError:
            pass
        assert time.monotonic() < deadline, "the gateway does not come up"
        await asyncio.sleep(0.1)


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(6 * 3600 if SOAK else 120)
async def test_memory_is_flat_however_many_requests_are_answered(tmp_path: Path) -> None:
    engine = await asyncio.get_running_loop().create_server(Engine, "127.0.0.1", 0)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    file = tmp_path / "millrace.yaml"
    address = f"http://127.0.0.1:{engine.sockets[0].getsockname()[1]}"
    written = {
        "gateway": {"port": port},
        "engines": [{"name": "small", "url": address, "base_model": BASE}],
        "models": {"plain": {"engine": "small", "price": {"input": 1, "output": 1}}},
        "log": {"spool": {"max_bytes": "16GiB"}},
    }
    file.write_text(yaml.safe_dump(written))
    secret = make_key(load_settings(file, environment={}))
    command = [sys.executable, "-m", "millrace", "serve", "gateway", "--config", str(file)]
    gateway = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL)
    try:
        await answers(port)
        used: list[int] = []
        for _ in range(20):
            await load(port, secret, REQUESTS // 20)
            used.append(psutil.Process(gateway.pid).memory_info().rss)
    finally:
        gateway.terminate()
        await gateway.wait()
    warm = used[len(used) // 3 :]
    slope = statistics.linear_regression(range(len(warm)), warm).slope * 100_000 / (REQUESTS / 20)
    print(f"{REQUESTS} requests: {max(used) / 2**20:.1f} MiB at most, {slope / 2**20:+.2f} MiB in 100,000")
    assert max(used) < MOST_MEMORY
    assert slope < MOST_GROWTH
    engine.close()
