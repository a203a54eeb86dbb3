# SPDX-License-Identifier: Apache-2.0
from typing import Any

import pytest
from rich.console import Console

from judge.statistics import Share
from millrace.demo.log import Answered
from millrace.demo.table import as_table, is_above_all, read_results, verdict
from trainer.jobs import Job, JobState


def share(hits: int, total: int = 360) -> dict[str, Any]:
    found = Share(hits, total)
    low, high = found.interval()
    return {"hits": hits, "total": total, "value": found.value, "low": low, "high": high}


def figures(exact: int, constrained: int) -> dict[str, Any]:
    recall = {"negative": share(90, 120), "neutral": share(40, 120), "positive": share(100, 120)}
    return {"exact": share(exact), "constrained": share(constrained), "recall": recall, "mean_length": 8.0}


def job(candidate: int) -> Job:
    result = {
        "confidence": 0.95,
        "largest_class": {"label": "negative", **share(125)},
        "base": figures(90, 160),
        "candidate": figures(candidate, candidate),
    }
    return Job(
        id="ftjob_1", loop="triage", alias="triage", base="smollm2-135m", status=JobState.SUCCEEDED, spec={}, cursor=0,
        created_ns=1, started_ns=1, finished_ns=1, version="triage@0123456789ab", result=result, error=None,
    )  # fmt: skip


BEFORE = [Answered(f"inv_{n}", "x", "smollm2-135m", 60, 6, 4_000, 1.0 + n) for n in range(3)]
AFTER = [Answered("inv_9", "positive", "triage@0123456789ab", 60, 2, 3_200, 0.5)]


@pytest.mark.parametrize(("candidate", "above"), [(300, True), (190, False), (160, False), (80, False)])
def test_above_all_means_the_whole_interval_above_every_other_one(candidate: int, above: bool) -> None:
    results = read_results(job(candidate), BEFORE, AFTER)
    others = max(share(125)["high"], share(90)["high"], share(160)["high"])
    assert is_above_all(results) is above
    assert above is (share(candidate)["low"] > others)
    assert ("NOT" not in verdict(results)) is above


def test_the_table_shows_all_four_with_recall_tokens_cost_and_latency() -> None:
    console = Console(width=160)
    with console.capture() as captured:
        console.print(as_table(read_results(job(300), BEFORE, AFTER)))
    lines = captured.get().splitlines()
    found = {
        name: next(line for line in lines if name in line)
        for name in ("always", "exact word", "to the labels", "candidate")
    }
    assert "34.7%" in found["always"]
    assert "25.0%" in found["exact word"]
    assert "60 + 6.0" in found["exact word"]
    assert "0.0040" in found["exact word"]
    assert "2.00 s" in found["exact word"]
    assert "44.4%" in found["to the labels"]
    for cell in ("83.3%", "79.1%–86.8%", "75.0%", "33.3%", "60 + 2.0", "0.0032", "0.50 s"):
        assert cell in found["candidate"]


def test_a_candidate_that_never_answered_live_has_no_latency() -> None:
    results = read_results(job(300), BEFORE, [])
    assert results.candidate.traffic is None
    as_table(results)
