# SPDX-License-Identifier: Apache-2.0
from typing import Any

import pytest

from contract.settings.loops import Loop
from trainer.jobs import Job, JobState
from trainer.schedule import UNFINISHED, Evidence, due

HOUR = 3600 * 1_000_000_000


def loop(**trigger: Any) -> Loop:
    return Loop.model_validate(
        {
            "model": "triage",
            "base": "tiny",
            "data": {"reference": "label", "min_rows": 100},
            "graders": ["right"],
            "trigger": trigger,
        }
    )


def job(status: JobState) -> Job:
    return Job("ftjob_1", "triage", "triage", "tiny", status, {}, 0, 0, None, None, None, None, None)


def evidence(new_rows: int, all_rows: int = 1000) -> Evidence:
    return Evidence(new_rows=new_rows, all_rows=all_rows, cursor=5, since_ns=0)


def test_a_job_starts_when_enough_new_rows_are_in() -> None:
    rule = loop(new_rows=200)
    assert not due(rule, None, evidence(199), HOUR).start
    found = due(rule, None, evidence(200), HOUR)
    assert found.start
    assert found.reason == "200 new labelled rows reach 200"


def test_a_job_starts_when_enough_time_has_passed_and_any_row_is_new() -> None:
    rule = loop(every="1h")
    assert not due(rule, None, evidence(1), HOUR - 1).start
    assert not due(rule, None, evidence(0), 2 * HOUR).start
    assert due(rule, None, evidence(1), HOUR).start


def test_either_condition_is_enough() -> None:
    rule = loop(every="1h", new_rows=200)
    assert due(rule, None, evidence(1), HOUR).start
    assert due(rule, None, evidence(200), 1).start


@pytest.mark.parametrize("status", sorted(UNFINISHED))
def test_no_job_starts_while_one_of_the_loop_is_unfinished(status: JobState) -> None:
    found = due(loop(new_rows=1), job(status), evidence(500), HOUR)
    assert not found.start
    assert found.reason is None


@pytest.mark.parametrize("status", sorted(set(JobState) - UNFINISHED))
def test_a_finished_job_does_not_hold_the_next_one_back(status: JobState) -> None:
    assert due(loop(new_rows=1), job(status), evidence(500), HOUR).start


def test_a_trigger_that_is_reached_with_too_few_rows_in_all_says_so() -> None:
    found = due(loop(new_rows=10), None, evidence(10, all_rows=99), HOUR)
    assert not found.start
    assert found.reason == "10 new labelled rows reach 10, but 99 labelled rows are fewer than 100"
