# SPDX-License-Identifier: Apache-2.0
from typing import Any

import pytest

from contract.settings.loops import Gate
from trainer.evaluate import share
from trainer.gate import Verdict, decide

ROWS = 400


def shares(exact: float, constrained: float = 0.4) -> dict[str, Any]:
    return {name: of(value) for name, value in (("exact", exact), ("constrained", constrained))}


def of(value: float, rows: int = ROWS) -> dict[str, Any]:
    return share([index < value * rows for index in range(rows)], 0.95)


def verdict(
    candidate: float, base: float = 0.2, constrained: float = 0.4, largest: float = 0.34, **rules: Any
) -> Verdict:
    return decide(Gate(**rules), shares(candidate), shares(base, constrained), of(largest), None)


def test_a_candidate_whose_interval_is_above_all_three_is_admitted_with_the_figures() -> None:
    found = verdict(0.7)
    assert found.admitted
    assert found.figures["candidate"] == 0.7
    assert found.figures["candidate_low"] > found.figures["base_constrained_high"]
    assert "0.700 of 400" in found.reason


@pytest.mark.parametrize(
    ("rivals", "named"),
    [
        ({"largest": 0.66}, "the largest class"),
        ({"base": 0.66}, "the base model's"),
        ({"constrained": 0.66}, "the base model held to the labels"),
    ],
)
def test_a_candidate_whose_interval_meets_one_of_the_three_is_refused_and_that_one_is_named(
    rivals: dict[str, float], named: str
) -> None:
    found = verdict(0.7, **rivals)
    assert not found.admitted
    assert named in found.reason
    assert ";" not in found.reason


def test_what_the_loop_does_not_ask_to_beat_does_not_refuse() -> None:
    assert verdict(0.1, beats=[]).admitted
    assert verdict(0.45, constrained=0.44, beats=["base"]).admitted


def test_a_figure_that_is_absent_is_not_asked_for_and_the_reason_says_so() -> None:
    found = decide(Gate(), shares(0.7), shares(0.2) | {"constrained": None}, of(0.34), None)
    assert found.admitted
    assert "held to the labels was not asked for" in found.reason
    assert "base_constrained" not in found.figures


def test_too_few_held_out_rows_refuse() -> None:
    found = verdict(0.9, min_rows=401)
    assert not found.admitted
    assert "400 held-out rows are fewer than min_rows = 401" in found.reason


def paired(candidate: float, incumbent: float) -> Verdict:
    rows = range(ROWS)
    right = ([row < candidate * ROWS for row in rows], [row < incumbent * ROWS for row in rows])
    return decide(Gate(), shares(candidate), shares(0.2), of(0.34), right)


def test_a_candidate_worse_than_the_live_version_is_refused() -> None:
    found = paired(0.6, 0.7)
    assert not found.admitted
    assert "worse than the version that is live" in found.reason


def test_a_candidate_as_good_as_the_live_version_is_admitted() -> None:
    found = paired(0.7, 0.7)
    assert found.admitted
    assert found.figures["incumbent"] == 0.7
