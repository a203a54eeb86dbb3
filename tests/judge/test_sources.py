# SPDX-License-Identifier: Apache-2.0
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from judge import sources
from judge.sources import EveryAnswer, LabelledAnswers
from logger.client import Page

PAGE = 3


class GrowingLog:
    """Answers as the logger gives them, page by page, while new ones arrive between any two questions."""

    def __init__(self, aliases: list[str], arriving: list[int]) -> None:
        self.rows = [
            {
                "cursor": cursor, "id": f"inv_{cursor}", "invocation": f"inv_{cursor}", "choice": 0, "project": "p",
                "alias": alias, "metadata": None, "messages": [], "output_text": "x", "reference": "x",
                "choices": [{"index": 0, "message": {"content": "x"}}],
            }
            for cursor, alias in enumerate(aliases, start=1)
        ]  # fmt: skip
        self.arriving = arriving
        self.there = 0

    def _page(self, after: int, until: int | None, aliases: tuple[str, ...]) -> Page:
        self.there += self.arriving.pop(0) if self.arriving else len(self.rows)
        end = self.there if until is None else min(until, self.there)
        rows = [row for row in self.rows if after < row["cursor"] <= end and row["alias"] in aliases][:PAGE]
        return Page(rows, rows[-1]["cursor"] if rows else after)

    async def labelled(
        self, alias: str, metric: str, after: int = 0, limit: int = 500, until: int | None = None
    ) -> Page:
        assert metric == "label"
        return self._page(after, until, (alias,))

    async def invocations(self, after: int = 0, limit: int = 500, *, status: str) -> Page:
        assert status == "complete"
        return self._page(after, None, ("a", "b", "c"))


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "PAGE_ROWS", PAGE)


async def read_all(source: Any, log: GrowingLog) -> list[int]:
    found: list[int] = []
    after = 0
    while True:
        all_there = log.there >= len(log.rows)
        due = await source.due(after)
        if all_there and due.next == after and not due.more:
            return found
        found, after = found + [answer.cursor for answer in due.answers], due.next


logs = st.builds(GrowingLog, st.lists(st.sampled_from("abc"), max_size=40), st.lists(st.integers(0, 7), max_size=40))


@settings(max_examples=300)
@given(logs)
async def test_labels_of_several_models_come_once_and_in_one_order_however_they_arrive(log: GrowingLog) -> None:
    source = LabelledAnswers(log, ["a", "b"], "label")  # type: ignore[arg-type]  # as much of a client as it uses
    expected = [row["cursor"] for row in log.rows if row["alias"] in ("a", "b")]
    assert await read_all(source, log) == expected


@settings(max_examples=100)
@given(logs)
async def test_labels_of_one_model_come_once_and_in_order(log: GrowingLog) -> None:
    source = LabelledAnswers(log, ["c"], "label")  # type: ignore[arg-type]  # as above
    assert await read_all(source, log) == [row["cursor"] for row in log.rows if row["alias"] == "c"]


@settings(max_examples=100)
@given(logs)
async def test_answers_come_once_and_in_order_and_other_models_are_passed_over(log: GrowingLog) -> None:
    source = EveryAnswer(log, ["a"])  # type: ignore[arg-type]  # as above
    assert await read_all(source, log) == [row["cursor"] for row in log.rows if row["alias"] == "a"]
