# SPDX-License-Identifier: Apache-2.0
"""Takes every connection that waits, not one each time the loop comes by.

libuv, and so uvloop's own server, accepts one connection in each turn of the loop. A turn is as long as all requests
that are ready in it take, so beside 256 busy clients the last of 256 new ones would wait for more than a second before
anything is read from it.
"""

import asyncio
import logging
import socket
from collections.abc import Callable

AT_ONCE = 64
"""Connections taken in one turn, at most."""
RETRY_SECONDS = 0.1
"""How long it waits where the process may open no more files."""
_log = logging.getLogger(__name__)


def at_once(workers: int, most: int) -> int:
    """Connections to take in one turn: several workers leave each other some, and where a worker may have no more than
    ``most``, those that go to make room are closed a turn later.
    """
    return max(1, min(AT_ONCE // workers, most // 8))


class Acceptor:
    """Gives each connection of a listening socket a protocol of its own."""

    def __init__(self, listener: socket.socket, protocol: Callable[[], asyncio.Protocol], at_once: int) -> None:
        """Call it inside the running loop; it accepts until `close`."""
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._protocol = protocol
        self._at_once = at_once
        self._opening: set[asyncio.Task[object]] = set()
        self._retry: asyncio.TimerHandle | None = None
        listener.setblocking(False)
        self._listen()

    def close(self) -> None:
        """Takes no further connection; the socket stays open."""
        if self._retry is not None:
            self._retry.cancel()
        self._loop.remove_reader(self._listener)

    def _listen(self) -> None:
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        for _ in range(self._at_once):
            try:
                connection, _peer = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                # What waits stays in the kernel's queue, and would wake the loop again at once.
                _log.error("no connection can be taken: %s", error.strerror)
                self._loop.remove_reader(self._listener)
                self._retry = self._loop.call_later(RETRY_SECONDS, self._listen)
                return
            connection.setblocking(False)
            task = self._loop.create_task(self._open(connection))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, connection)
        except OSError as error:  # it has gone already
            connection.close()
            _log.debug("a connection ended before it began: %s", error.strerror)
