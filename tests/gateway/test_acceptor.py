# SPDX-License-Identifier: Apache-2.0
import asyncio
import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from gateway.acceptor import Acceptor

CLIENTS = 40


class Counting(asyncio.Protocol):
    made = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        type(self).made += 1
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


class Full(socket.socket):
    """Of a process that may open no more files, at first."""

    refusals = 1

    def accept(self) -> tuple[socket.socket, Any]:
        if self.refusals:
            self.refusals -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


@pytest.fixture
def clients() -> Iterator[ExitStack]:
    Counting.made = 0
    with ExitStack() as stack:
        yield stack


def listening(stack: ExitStack, kind: type[socket.socket] = socket.socket) -> socket.socket:
    listener = stack.enter_context(kind(socket.AF_INET, socket.SOCK_STREAM))
    listener.bind(("127.0.0.1", 0))
    listener.listen(CLIENTS)
    return listener


async def test_all_that_wait_are_taken_in_a_few_turns_of_the_loop(clients: ExitStack) -> None:
    listener = listening(clients)
    for _ in range(CLIENTS):
        clients.enter_context(socket.create_connection(listener.getsockname()))
    acceptor = Acceptor(listener, Counting, CLIENTS)
    for _ in range(8):
        await asyncio.sleep(0)
    assert Counting.made == CLIENTS
    acceptor.close()


async def test_a_worker_leaves_the_others_some(clients: ExitStack) -> None:
    listener = listening(clients)
    for _ in range(CLIENTS):
        clients.enter_context(socket.create_connection(listener.getsockname()))
    acceptor = Acceptor(listener, Counting, 1)
    acceptor._accept()
    acceptor.close()
    for _ in range(8):
        await asyncio.sleep(0)
    assert Counting.made == 1


async def test_what_cannot_be_opened_now_is_opened_later(clients: ExitStack, caplog: pytest.LogCaptureFixture) -> None:
    listener = listening(clients, Full)
    acceptor = Acceptor(listener, Counting, CLIENTS)
    clients.enter_context(socket.create_connection(listener.getsockname()))
    async with asyncio.timeout(10):
        while not Counting.made:
            await asyncio.sleep(0)
    assert "Too many open files" in caplog.text
    acceptor.close()
