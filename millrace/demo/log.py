# SPDX-License-Identifier: Apache-2.0
"""What the log already holds of the demo, so that a second run repeats nothing."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from contract.errors import Overloaded
from contract.settings import Filter, MetadataFilter
from logger.client import LoggerClient, Page
from millrace.demo.app import APP, MODEL

METRIC = "label"
_PAGE = 1000
_OURS = Filter(metadata=MetadataFilter(equals={"app": APP}))


@dataclass(frozen=True)
class Answered:
    """A whole answer to one row, as the log has it; ``cost`` in nano-dollars."""

    invocation: str
    text: str
    version: str
    prompt_tokens: int
    completion_tokens: int
    cost: int
    seconds: float


async def answered(log: LoggerClient, app: str) -> dict[str, Answered]:
    """Row -> what ``app`` was answered; the first answer, where it asked twice."""
    found: dict[str, Answered] = {}
    async for row in _every(lambda after: log.invocations(after, _PAGE, alias=MODEL, status="complete")):
        metadata = row["metadata"] or {}
        if metadata.get("app") == app and "row" in metadata:
            found.setdefault(metadata["row"], _answered(row))
    return found


def _answered(row: Mapping[str, Any]) -> Answered:
    return Answered(
        invocation=row["id"],
        text=row["choices"][0]["message"]["content"] or "",
        version=row["version"],
        prompt_tokens=row["prompt_tokens"],
        completion_tokens=row["completion_tokens"],
        cost=row["cost"],
        seconds=row["total_ns"] / 1e9,
    )


async def labelled(log: LoggerClient) -> set[str]:
    """Invocations that a user has given a label."""
    pages = _every(lambda after: log.labelled(MODEL, METRIC, after, _PAGE, filter=_OURS))
    return {row["invocation"] async for row in pages}


async def until_taken_in(log: LoggerClient, look: float = 1.2) -> None:
    """Returns once the store holds everything that was in the spools when this was called.

    The logger's picture of what waits is up to a second old, so nothing must wait, and nothing arrive, twice in a row.
    """
    before = None
    while True:
        now = await _cursor_if_idle(log)
        if now is not None and now == before:
            return
        before = now
        await asyncio.sleep(look)


async def _cursor_if_idle(log: LoggerClient) -> int | None:
    try:
        health = await log.health()
    except Overloaded:  # the logger is being started, or started again
        return None
    waiting = any(producer["records"] or producer["error"] for producer in health["producers"])
    return None if waiting else health["cursor"]


async def versions_of(log: LoggerClient, app: str, since_ns: int) -> Counter[str]:
    """Whole answers to requests of ``app`` since then, by the version that answered, as the log has them."""
    pages = _every(lambda after: log.invocations(after, _PAGE, alias=MODEL, status="complete", since_ns=since_ns))
    return Counter([row["version"] async for row in pages if (row["metadata"] or {}).get("app") == app])


async def _every(page: Callable[[int], Awaitable[Page]]) -> AsyncIterator[dict[str, Any]]:
    after = 0
    while True:
        found = await page(after)
        for row in found.rows:
            yield row
        if not found.rows:
            return
        after = found.next
