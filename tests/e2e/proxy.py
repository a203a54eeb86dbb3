# SPDX-License-Identifier: Apache-2.0
"""A TCP proxy in front of the broker, whose connections can be cut and that can be away."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any


class Proxy:
    """Listens on a port of its own; `cut` and `away` may be called from any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")
        self._thread.start()
        self._through: set[asyncio.StreamWriter] = set()
        self._away = False
        self._target = 0
        self._server = self._do(asyncio.start_server(self._connected, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]

    def lead_to(self, port: int) -> None:
        """Where connections go from now on."""
        self._target = port

    def cut(self) -> None:
        """Every connection breaks, in the middle of whatever it carries."""
        self._do(self._drop())

    def away(self, away: bool) -> None:
        """While it is away, what stands is cut and what comes is dropped."""
        self._away = away
        if away:
            self.cut()

    def close(self) -> None:
        """Ends it."""
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _drop(self) -> None:
        for writer in list(self._through):
            writer.transport.abort()

    async def _end(self) -> None:
        self._server.close()
        await self._drop()
        while self._through:
            await asyncio.sleep(0)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._through.add(writer)
        try:
            if not self._away:
                await self._carry(reader, writer)
        except ConnectionError:
            pass  # cut, or the broker is gone: the client sees its own connection end
        finally:
            writer.transport.abort()
            self._through.discard(writer)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        self._through.add(back)
        try:
            pumps = [asyncio.ensure_future(_pump(*way)) for way in ((reader, back), (there, writer))]
            _, left = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in left:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
        finally:
            back.transport.abort()
            self._through.discard(back)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(2**16):
        writer.write(data)
        await writer.drain()
