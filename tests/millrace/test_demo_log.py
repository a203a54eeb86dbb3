# SPDX-License-Identifier: Apache-2.0
import asyncio
from typing import Any

from contract.errors import Overloaded
from logger.client import LoggerClient, Page
from millrace.demo.log import answered, until_taken_in, versions_of


def invocation(cursor: int, row: str | None, app: str = "triage", version: str = "base") -> dict[str, Any]:
    return {
        "cursor": cursor,
        "id": f"inv_{cursor}",
        "metadata": None if row is None else {"app": app, "row": row},
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "positive"}}],
        "version": version,
        "prompt_tokens": 60,
        "completion_tokens": 2,
        "cost": 100,
        "total_ns": 5 * 10**8,
    }


class Log(LoggerClient):
    """The logger's answers, at the network's edge."""

    def __init__(self, rows: list[dict[str, Any]], healths: list[dict[str, Any] | None] | None = None) -> None:
        super().__init__("http://logger", "token")
        self.rows = rows
        self.healths = healths or []
        self.looks = 0

    async def invocations(self, after: int = 0, limit: int = 500, **conditions: Any) -> Page:
        rows = [row for row in self.rows if row["cursor"] > after][:2]
        return Page(rows, rows[-1]["cursor"] if rows else after)

    async def health(self) -> dict[str, Any]:
        found = self.healths[min(self.looks, len(self.healths) - 1)]
        self.looks += 1
        if found is None:
            raise Overloaded("not there yet")
        return found


async def test_every_page_is_read_and_the_first_answer_counts() -> None:
    rows = [invocation(1, "1_1"), invocation(2, None), invocation(3, "1_2", app="other"), invocation(4, "1_1")]
    found = await answered(Log([*rows, invocation(5, "1_3")]), "triage")
    assert {row: answer.invocation for row, answer in found.items()} == {"1_1": "inv_1", "1_3": "inv_5"}
    assert found["1_1"].text == "positive"
    assert found["1_1"].seconds == 0.5


async def test_answers_are_counted_by_the_version_that_gave_them() -> None:
    rows = [invocation(1, "1_1"), invocation(2, "1_1", version="triage@1"), invocation(3, "1_2", app="other")]
    assert await versions_of(Log(rows), "triage", 0) == {"base": 1, "triage@1": 1}


def health(cursor: int, waiting: int = 0, error: str | None = None) -> dict[str, Any]:
    return {"cursor": cursor, "producers": [{"records": waiting, "error": error}]}


async def test_all_is_taken_in_once_nothing_waits_and_nothing_came_twice_in_a_row() -> None:
    healths = [None, health(5, waiting=3), health(5), health(8), health(8, error="torn"), health(8), health(8)]
    log = Log([], healths)
    async with asyncio.timeout(20):
        await until_taken_in(log, look=0)
    assert log.looks == len(healths)
