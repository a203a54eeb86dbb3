# SPDX-License-Identifier: Apache-2.0
"""A client over a raw socket, which says exactly what a test wants."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from tests.gateway.house import ASK, House

CHAT = "/v1/chat/completions"


@dataclass
class Response:
    """An answer, taken out of its framing."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> Any:
        return json.loads(self.body)["error"]["code"]


@dataclass
class Wire:
    """One connection of such a client."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def say(self, data: bytes) -> None:
        self.writer.write(data)

    async def response(self) -> Response:
        """The next answer, which must come."""
        async with asyncio.timeout(20):
            return await self._response()

    async def _response(self) -> Response:
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


async def asked(home: House, **fields: Any) -> Response:
    """The answer to a request on a connection of its own."""
    async with wire(home) as client:
        client.say(request(home, body(**fields)))
        return await client.response()


def events_in(stream: bytes) -> list[bytes]:
    """The data of each event that ends in a stream, as the HTML standard reads it; lines end in LF or CRLF."""
    found, lines = [], []
    for line in stream.splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break
        said = line.rstrip(b"\r\n")
        if said.startswith(b"data:"):
            lines.append(said[5:].removeprefix(b" "))
        elif not said and lines:
            found.append(b"\n".join(lines))
            lines = []
    return found


def text_in(events: list[bytes]) -> str:
    """What the chunks among a stream's events say."""
    documents = [json.loads(event) for event in events if event != b"[DONE]"]
    choices = [choice for document in documents for choice in document.get("choices", [])]
    return "".join(choice["delta"].get("content") or "" for choice in choices)
