# SPDX-License-Identifier: Apache-2.0
from typing import Any

from gateway.statements import bill


def row(alias: str, version: str, requests: int = 1, cost: int | None = 0, **sums: Any) -> dict[str, Any]:
    known = {"unmetered": 0, "prompt_tokens": 10, "cached_tokens": 2, "completion_tokens": 3}
    return {"alias": alias, "version": version, "requests": requests, "cost": cost, **known, **sums}


def test_lines_are_summed_by_model_and_version() -> None:
    found = bill([row("t", "t@1", 2, 5), row("b", "base", 1, 7), row("t", "t@1", 3, 11, status="aborted")])
    assert [(line.model, line.version, line.requests, line.cost) for line in found.lines] == [
        ("b", "base", 1, 7), ("t", "t@1", 5, 16),
    ]  # fmt: skip
    assert found.lines[1].prompt_tokens == 20
    assert found.total == 23


def test_rounding_happens_once_from_the_exact_total() -> None:
    found = bill([row("a", "1", cost=400), row("b", "2", cost=400), row("c", "3", cost=400)])
    printed = str(found).splitlines()
    assert [line.split()[-1] for line in printed[2:5]] == ["$0.000000"] * 3
    assert printed[-1].split()[-1] == "$0.000001"


def test_sums_that_are_absent_count_as_none() -> None:
    found = bill([row("", "", 4, None, prompt_tokens=None, cached_tokens=None, completion_tokens=None, unmetered=4)])
    assert (found.total, found.lines[0].unmetered) == (0, 4)
    assert "(unknown)" in str(found)


def test_names_that_clients_invent_are_one_line() -> None:
    found = bill([row("t", "t@1", 2), *(row(f"nobody-{n}", "", cost=None) for n in range(3)), row("", "")])
    assert [(line.model, line.version, line.requests) for line in found.lines] == [("", "", 4), ("t", "t@1", 2)]
    assert "nobody" not in str(found)


def test_an_empty_bill_prints_its_total() -> None:
    assert str(bill([])).splitlines()[-1].split() == ["total", "0", "0", "0", "0", "0", "$0.000000"]


def test_the_columns_line_up() -> None:
    lines = str(bill([row("triage", "triage@0123456789ab", 1234, 5_000_000)])).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert "1,234" in lines[2]
