# SPDX-License-Identifier: Apache-2.0
"""What the log already holds of the demo, so that a second run repeats nothing."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from contract.errors import Overloaded
from logger.client import LoggerClient, Page
from millrace.demo_app import APP, MODEL

METRIC = "label"
_PAGE = 1000


async def answered(log: LoggerClient) -> dict[str, str]:
    """Row -> the invocation that answered it whole; the first one, where a row was asked for twice."""
    found: dict[str, str] = {}
    async for row in _every(lambda after: log.invocations(after, _PAGE, alias=MODEL, status="complete")):
        metadata = row["metadata"] or {}
        if metadata.get("app") == APP and "row" in metadata:
            found.setdefault(metadata["row"], row["id"])
    return found


async def labelled(log: LoggerClient) -> set[str]:
    """Invocations that a user has given a label."""
    pages = _every(lambda after: log.labelled(MODEL, METRIC, after, _PAGE, metadata={"app": APP}))
    return {row["invocation"] async for row in pages}


async def until_taken_in(log: LoggerClient, poll: float = 0.3) -> None:
    """Returns once the store holds everything that was in the spools when this was called."""
    while True:
        try:
            health = await log.health()
        except Overloaded:  # the logger is still taking in a backlog, or being started again
            health = None
        if health is not None and not any(producer["records"] for producer in health["producers"]):
            return
        await asyncio.sleep(poll)


async def _every(page: Callable[[int], Awaitable[Page]]) -> AsyncIterator[dict[str, Any]]:
    after = 0
    while True:
        found = await page(after)
        for row in found.rows:
            yield row
        if not found.rows:
            return
        after = found.next
