# SPDX-License-Identifier: Apache-2.0
"""How an answer goes from litellm's task to the strand of a request."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

import pytest

from contract.errors import EngineFailed, MillraceError
from gateway.providers import Feed
from gateway.providers.feed import MOST_HELD
from gateway.strand import Strand
from gateway.upstream import Stopwatch, Timeouts
from tests.gateway.house import until

PIECE = b"x" * 1000


class Source:
    """Pieces without end, or to an error."""

    def __init__(self, most: int = 10**6, error: Exception | None = None) -> None:
        self.made = 0
        self.closed = False
        self._most = most
        self._error = error

    async def pieces(self) -> AsyncGenerator[bytes]:
        try:
            while self.made < self._most:
                await asyncio.sleep(0)
                self.made += 1
                yield PIECE
            if self._error is not None:
                raise self._error
        finally:
            self.closed = True


def told(error: BaseException) -> MillraceError:
    return EngineFailed(f"told: {error}")


def start(source: Source, use: Callable[[Feed], Coroutine[Any, Any, None]]) -> Feed:
    """A feed, and a strand that uses it."""

    async def used() -> None:
        await use(feed)

    strand = Strand(used())
    feed = Feed(source.pieces(), told, strand, Timeouts(1, 9, 9, 9), Stopwatch())
    strand.wake()
    return feed


async def test_what_nobody_takes_holds_the_source_back_and_what_is_taken_lets_it_go_on() -> None:
    source, taken, wanted = Source(), asyncio.Event(), []

    async def slow(feed: Feed) -> None:
        await feed.head()
        await taken.wait()
        wanted.extend(await feed.pieces())

    feed = start(source, slow)
    held = -(-MOST_HELD // len(PIECE))
    await until(lambda: source.made == held)
    for _ in range(1000):
        await asyncio.sleep(0)
    assert source.made == held
    taken.set()
    await until(lambda: source.made > held)
    assert len(wanted) == held
    feed.abort()


@pytest.mark.parametrize("waits", [False, True])
async def test_an_answer_that_is_left_closes_its_source(waits: bool) -> None:
    source = Source()

    async def leaves(feed: Feed) -> None:
        await feed.head()
        if waits:
            await asyncio.sleep(0.01)
            await feed.pieces()
        feed.abort()

    start(source, leaves)
    await until(lambda: source.closed)


async def test_what_came_before_an_error_is_given_before_it() -> None:
    source, seen = Source(3, RuntimeError("broken")), []

    async def reads(feed: Feed) -> None:
        await feed.head()
        try:
            while pieces := await feed.pieces():
                seen.extend(pieces)
        except EngineFailed as error:
            seen.append(error.message.encode())

    start(source, reads)
    await until(lambda: len(seen) == 4)
    assert seen[3] == b"told: broken"


async def test_the_whole_of_it_is_joined_and_its_end_is_an_empty_list() -> None:
    source, found = Source(3), []

    async def reads(feed: Feed) -> None:
        found.append(await feed.body())
        found.append(await feed.pieces())

    start(source, reads)
    await until(lambda: len(found) == 2)
    assert found == [3 * PIECE, []]
