# SPDX-License-Identifier: Apache-2.0
"""The client's side of one exchange: its headers, its body, its hanging up, and what it is sent."""

import asyncio
from types import TracebackType

import orjson
from starlette.types import Message, Receive, Scope, Send

from contract.errors import BodyTimeout, MillraceError, PayloadTooLarge
from contract.settings import GatewaySettings
from gateway.sse import event_of


class ClientGone(Exception):
    """The client has hung up, or has stopped reading."""


def header(scope: Scope, name: bytes) -> str | None:
    """The value of a request header; ``name`` in lower case."""
    for known, value in scope["headers"]:
        if known == name:
            return str(value.decode("latin-1"))
    return None


async def read_body(scope: Scope, receive: Receive, settings: GatewaySettings) -> bytes:
    """The request's body, bounded in size and time while it is read.

    Raises:
        PayloadTooLarge: it is, or says that it is, longer than ``gateway.max_body``.
        BodyTimeout: its end did not come within ``gateway.body_timeout``.
        ClientGone: the client hung up before its end.
    """
    length, at_most = header(scope, b"content-length"), settings.max_body
    if length is not None and length.isdecimal() and int(length) > at_most:
        raise PayloadTooLarge(f"the body has {length} bytes; at most {at_most} are taken (gateway.max_body)")
    try:
        async with asyncio.timeout(settings.body_timeout):
            return await _read_all(receive, at_most)
    except TimeoutError:
        raise BodyTimeout(f"the body did not come within {settings.body_timeout:g} s (gateway.body_timeout)") from None


async def _read_all(receive: Receive, at_most: int) -> bytes:
    pieces, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        if size > at_most:
            raise PayloadTooLarge(f"the body is longer than the {at_most} bytes taken (gateway.max_body)")
        if not message.get("more_body", False):
            return b"".join(pieces)


class ClientWatch:
    """While it is entered, the client's hanging up raises `ClientGone` at whatever is awaited.

    Works as `asyncio.timeout` does: a task of its own waits for the disconnect and cancels the one that entered.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._gone = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._watcher = asyncio.create_task(self._watch())

    async def __aexit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._watcher.cancel()
        if not self._gone:
            return
        if kind is None:
            # The block ended by itself while the cancellation was on its way: let it arrive here.
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                self._task.uncancel()
            return
        if kind is asyncio.CancelledError and self._task.uncancel() == 0:
            raise ClientGone

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._task.cancel()


class Reply:
    """What goes back to the client; each method raises `ClientGone` where it takes nothing for ``timeout`` seconds."""

    def __init__(self, send: Send, timeout: float) -> None:
        self._send = send
        self._timeout = timeout
        self.status: int | None = None

    @property
    def started(self) -> bool:
        """Whether a status has gone out."""
        return self.status is not None

    async def start(self, status: int, headers: list[tuple[str, str]]) -> None:
        """Sends the head."""
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
        self.status = status
        await self._pass({"type": "http.response.start", "status": status, "headers": raw})

    async def send(self, piece: bytes) -> None:
        """Sends a piece; waits where the client reads slowly."""
        if piece:
            await self._pass({"type": "http.response.body", "body": piece, "more_body": True})

    async def end(self, piece: bytes = b"") -> None:
        """Sends the last piece."""
        await self._pass({"type": "http.response.body", "body": piece})

    async def break_off(self, error: MillraceError) -> None:
        """Ends a stream that has begun, with an error event; without ``[DONE]``, as it is not done."""
        await self.end(event_of(orjson.dumps(error.body())))

    async def _pass(self, message: Message) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await self._send(message)
        except TimeoutError:
            raise ClientGone from None
