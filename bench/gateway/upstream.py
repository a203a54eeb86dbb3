# SPDX-License-Identifier: Apache-2.0
"""An engine made of constants: nginx for whole answers, and a server that flushes an event every 10 ms for streams.

Usage: python -m bench.gateway.upstream PORT [bare|running|tokens] [SECONDS]   (it ends with its parent's signal)

``running`` puts usage on every event, as vLLM does when it is asked to; ``tokens`` also token ids and
log-probabilities.
"""

import asyncio
import itertools
import json
import sys
from pathlib import Path
from typing import cast

import httptools
import uvloop

EVENTS = 32
INTERVAL = 0.010
MODEL = "small"
USAGE = {"prompt_tokens": 40, "completion_tokens": EVENTS, "total_tokens": 40 + EVENTS}
MODELS = {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "vllm"}]}


def answer() -> bytes:
    """A whole chat completion of about 600 bytes, as vLLM words it."""
    message = {"role": "assistant", "content": "It is " + "a fine day. " * 16, "refusal": None, "tool_calls": []}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop", "stop_reason": None}
    whole = {
        "id": "chatcmpl-0", "object": "chat.completion", "created": 1700000000, "model": MODEL, "choices": [choice],
        "usage": USAGE, "prompt_logprobs": None, "kv_transfer_params": None,
    }  # fmt: skip
    return json.dumps(whole, separators=(",", ":")).encode()


def events(kind: str = "bare") -> list[bytes]:
    """The events of a stream, one flush each: 32 with text, then usage and the end."""
    head = {"id": "chatcmpl-0", "object": "chat.completion.chunk", "created": 1700000000, "model": MODEL}
    flushes = []
    for number in range(EVENTS):
        choice = {
            "index": 0,
            "delta": {"content": " word"},
            "logprobs": None,
            "finish_reason": "length" if number == EVENTS - 1 else None,
        }
        event: dict[str, object] = {**head, "choices": [choice]}
        if kind == "tokens":
            token = {"token": " word", "logprob": -0.25, "bytes": [32, 119, 111, 114, 100], "top_logprobs": []}
            choice |= {"logprobs": {"content": [token]}, "token_ids": [1000 + number]}
        if kind != "bare":
            event["usage"] = {"prompt_tokens": 40, "total_tokens": 41 + number, "completion_tokens": number + 1}
        flushes.append(_event(event))
    flushes[-1] += _event({**head, "choices": [], "usage": USAGE}) + b"data: [DONE]\n\n"
    return flushes


def nginx_config(folder: Path, port: int) -> Path:
    """Configuration of an nginx that answers every POST with `answer`."""
    place = "{{ default_type application/json; return 200 '{0}'; }}"
    routes = {"/": answer().decode(), "/v1/models": json.dumps(MODELS), "/health": "{}"}
    locations = "\n".join(f"location = {path} {place.format(body)}" for path, body in routes.items() if path != "/")
    file = folder / "nginx.conf"
    file.write_text(
        f"""
        daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/nginx.log error;
        events {{ worker_connections 4096; }}
        http {{
            access_log off; keepalive_requests 1000000000; keepalive_timeout 600s; client_body_buffer_size 128k;
            client_body_temp_path {folder}/body; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
            uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
            server {{
                listen 127.0.0.1:{port} backlog=4096;
                {locations}
                location / {place.format(routes["/"])}
            }}
        }}
        """
    )
    return file


def _event(document: dict[str, object]) -> bytes:
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"


class _Ticker:
    """One timer for all streams: each tick writes the next event of those whose turn it is."""

    def __init__(self, kind: str, interval: float) -> None:
        """Streams of an ``interval`` of several ticks take turns, as streams do that did not begin together."""
        self._ticks = max(1, round(interval / INTERVAL))
        self._begun = 0
        self._chunks = [b"%x\r\n%b\r\n" % (len(event), event) for event in events(kind)]
        self._chunks[-1] += b"0\r\n\r\n"
        self._turns: list[dict[asyncio.Transport, int]] = [{} for _ in range(self._ticks)]

    def add(self, transport: asyncio.Transport) -> None:
        transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        self._turns[self._begun % self._ticks][transport] = 0
        self._begun += 1

    def drop(self, transport: asyncio.Transport) -> None:
        for streams in self._turns:
            streams.pop(transport, None)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        for streams in itertools.cycle(self._turns):
            due = max(due + INTERVAL, loop.time())
            await asyncio.sleep(due - loop.time())
            for transport, number in list(streams.items()):
                transport.write(self._chunks[number])
                if number + 1 == len(self._chunks):
                    del streams[transport]
                else:
                    streams[transport] = number + 1


class _Connection(asyncio.Protocol):
    def __init__(self, ticker: _Ticker) -> None:
        self._ticker = ticker
        self._parser = httptools.HttpRequestParser(self)
        self._path = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own is none by its class

    def connection_lost(self, _error: Exception | None) -> None:
        self._ticker.drop(self._transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._path = url

    def on_message_complete(self) -> None:
        if self._path.endswith(b"/chat/completions"):
            self._ticker.add(self._transport)
            return
        body = json.dumps(MODELS).encode()
        self._transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        )


async def serve(port: int, kind: str = "bare", interval: float = INTERVAL) -> None:
    """Streams until it is cancelled."""
    ticker = _Ticker(kind, interval)
    await asyncio.get_running_loop().create_server(lambda: _Connection(ticker), "127.0.0.1", port, backlog=4096)
    await ticker.run()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), *sys.argv[2:3], *map(float, sys.argv[3:4])))
