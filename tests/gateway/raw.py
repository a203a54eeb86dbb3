# SPDX-License-Identifier: Apache-2.0
"""An engine over a raw socket: it is found healthy, and answers a request for a model with the bytes of a test."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from tests.gateway.engine import BASE

EVENTS = "text/event-stream; charset=utf-8"
DEEP = b"[" * 100_000 + b"]" * 100_000
"""JSON that no reader follows to its end."""
Say = Callable[["Asking"], Awaitable[None]]


@dataclass
class Asking:
    """One request for a model, and the connection that it came on."""

    number: int
    """Of its connection's requests for a model, from 1."""
    id: str
    """That the answer carries after its prefix."""
    body: dict[str, Any]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def say(self, *pieces: bytes) -> None:
        """Sends the pieces, each in a write of its own."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    def reset(self) -> None:
        """Breaks the connection off, as a process that dies may."""
        self.writer.transport.abort()

    async def left(self) -> None:
        """Returns once the other side has closed."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(2**16):
                pass


def whole_answer(asking: Asking, text: str = "hello", completion: int = 2) -> bytes:
    """A plain answer's body, as an engine writes it."""
    message = {"role": "assistant", "content": text}
    return json.dumps(
        {
            "id": f"chatcmpl-{asking.id}", "object": "chat.completion", "created": 1, "model": BASE,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 7, "completion_tokens": completion, "total_tokens": 7 + completion},
        },
        separators=(",", ":"), ensure_ascii=False,
    ).encode()  # fmt: skip


def framed(body: bytes, *lines: str, status: str = "200 OK", length: int | None = None) -> bytes:
    """An HTTP answer; ``length`` where it is to lie."""
    said = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *lines, "", ""]
    return "\r\n".join(said).encode() + body


def chunked(*pieces: bytes, end: bool = True, lines: tuple[str, ...] = ()) -> bytes:
    """An HTTP answer in chunks."""
    head = "\r\n".join(["HTTP/1.1 200 OK", f"Content-Type: {EVENTS}", "Transfer-Encoding: chunked", *lines, "", ""])
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece)
    return head.encode() + body + (b"0\r\n\r\n" if end else b"")


async def well(asking: Asking) -> None:
    """Answers as it should, whole or streamed."""
    if not asking.body.get("stream"):
        await asking.say(framed(whole_answer(asking)))
        return
    await asking.say(chunked(*(b"data: " + event + b"\n\n" for event in [*chunks(asking, "he", "llo"), b"[DONE]"])))


def chunks(asking: Asking, *words: str) -> list[bytes]:
    """The data of a stream's events as vLLM 0.32 sends them: role, one a word with running usage, the total."""

    def chunk(choices: list[Any], completion: int) -> bytes:
        usage = {"prompt_tokens": 7, "total_tokens": 7 + completion, "completion_tokens": completion}
        document = {
            "id": f"chatcmpl-{asking.id}", "object": "chat.completion.chunk", "created": 1, "model": BASE,
            "choices": choices, "usage": usage,
        }  # fmt: skip
        return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()

    found = [chunk([{"index": 0, "delta": {"role": "assistant", "content": ""}}], 0)]
    for count, word in enumerate(words, 1):
        reason = "stop" if count == len(words) else None
        found.append(chunk([{"index": 0, "delta": {"content": word}, "finish_reason": reason}], count))
    return [*found, chunk([], len(words))]


class RawEngine:
    """One replica. `say` answers; the connection stays for another request unless it was closed."""

    def __init__(self) -> None:
        self.say: Say = well
        self.asked: list[Asking] = []
        self.hasty: bytes | None = None
        """What it says to a request's head alone; it closes then."""
        self.gone = 0
        """Connections on which a model was asked for, and that are closed."""
        self.release = asyncio.Event()
        self.url = ""
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listens."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """Goes away."""
        assert self._server is not None
        self._server.close()
        for task in list(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await self._server.wait_closed()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = 0
        try:
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                fields = dict(line.split(": ", 1) for line in head.splitlines()[1:] if line)
                if self.hasty is not None and head.startswith("post /v1/chat"):
                    writer.write(self.hasty)
                    await writer.drain()
                    break
                body = await reader.readexactly(int(fields.get("content-length", 0)))
                if head.startswith(("post /v1/chat/completions", "post /v1/completions")):
                    number += 1
                    self.asked.append(Asking(number, fields["x-request-id"], json.loads(body), reader, writer))
                    await self.say(self.asked[-1])
                else:
                    models = json.dumps({"object": "list", "data": [{"id": BASE}]}).encode()
                    writer.write(framed(models, "Content-Type: application/json"))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.gone += number > 0
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
