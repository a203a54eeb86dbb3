# SPDX-License-Identifier: Apache-2.0
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from contract.datasets import DatasetOrder, Split
from contract.errors import SettingsError
from contract.settings import Filter, nanoseconds, parse_settings
from tests.contract.test_settings import changed

MOMENT = 1_795_464_000_000_000_000
PAIR = {"equals": {"team": "red"}}


def refusal(given: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as refused:
        Filter.model_validate(given)
    problem = refused.value.errors()[0]
    return f"{'.'.join(map(str, problem['loc']))}: {problem['input']!r}: {problem['msg']}"


@pytest.mark.parametrize(
    "written",
    [
        "2026-11-23T20:00:00Z", "2026-11-23t22:00:00+02:00", "2026-11-23 20:00:00.000000000z", 1_795_464_000,
        1_795_464_000.0, datetime(2026, 11, 23, 20, tzinfo=UTC),
        datetime(2026, 11, 23, 22, tzinfo=timezone(timedelta(hours=2))),
    ],
)  # fmt: skip
def test_a_time_is_the_same_however_it_is_written(written: object) -> None:
    found = Filter.model_validate({"since": written}).since
    assert found == "2026-11-23T20:00:00Z"
    assert nanoseconds(found) == MOMENT


@given(st.integers(-(2**62), 2**62))
def test_a_time_is_kept_to_the_nanosecond(moment: int) -> None:
    seconds, rest = divmod(moment, 10**9)
    text = f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"
    kept = Filter.model_validate({"since": text})
    assert kept.since is not None and nanoseconds(kept.since) == moment
    assert Filter.model_validate(kept.model_dump(mode="json")) == kept


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"model": ["x"]}, "model: ['x']: Extra inputs are not permitted"),
        ({"metadata": {"team": "red"}}, "metadata.team: 'red': Extra inputs"),
        ({"metadata": {}}, "metadata: {}: Value error, needs exactly one of equals, notEquals, andAll, orAll; given "),
        ({"metadata": {**PAIR, "orAll": [PAIR]}}, "given are equals, orAll"),
        ({"metadata": {"equals": {"a": "1", "b": "2"}}}, "metadata.equals: {'a': '1', 'b': '2'}: Dictionary should "),
        ({"metadata": {"equals": {"a": 1}}}, "metadata.equals.a: 1: Input should be a valid string"),
        ({"metadata": {"andAll": []}}, "metadata.andAll: []: List should have at least 1 item"),
        ({"metadata": {"orAll": [PAIR] * 17}}, "List should have at most 16 items"),
        ({"metadata": {"andAll": [PAIR, {"orAll": [PAIR]}]}}, "metadata.andAll.1.orAll: "),
        ({"models": "triage"}, "models: 'triage': Input should be a valid list"),
        ({"since": "yesterday"}, "since: 'yesterday': Value error, a time is RFC 3339 with its offset"),
        ({"since": "2026-11-23T20:00:00"}, "a time is RFC 3339 with its offset"),
        ({"since": "2026-02-30T20:00:00Z"}, "a time is RFC 3339 with its offset"),
        ({"since": datetime(2026, 11, 23)}, "a time is RFC 3339 with its offset"),
        ({"since": True}, "a time is RFC 3339 with its offset"),
        ({"since": float("nan")}, "a time is RFC 3339 with its offset"),
        ({"until": 1e12}, "until: 1000000000000.0: Value error, a time must be between the years"),
        ({"until": "2300-01-01T00:00:00Z"}, "a time must be between the years"),
        ({"since": 2, "until": 2}, "since = 1970-01-01T00:00:02Z is not before until = 1970-01-01T00:00:02Z"),
        ({"scores": [{"min": 0.5}]}, "scores.0.grader: "),
        ({"scores": [{"grader": "g", "min": 1, "max": 0}]}, "min = 1 is above max = 0"),
        ({"feedback": [{"metric": "m", "equals": "a", "min": 1}]}, "needs equals or bounds, not both"),
    ],
)
def test_what_a_filter_does_not_know_is_refused_with_its_place_and_value(given: dict[str, Any], words: str) -> None:
    assert words in refusal(given)


def test_a_loop_takes_the_filter_and_names_the_line_of_what_is_wrong_with_it() -> None:
    whole = "data: {reference: label, filter: {metadata: {notEquals: {team: red}}, since: 2026-11-23T20:00:00Z}}"
    loop = parse_settings(changed("data: {reference: label}", whole)).loops["learn"]
    assert loop.data.filter == Filter.model_validate(
        {"metadata": {"notEquals": {"team": "red"}}, "since": "2026-11-23T20:00:00Z"}
    )
    assert type(loop).model_validate(loop.model_dump(mode="json")) == loop
    wrong = changed("data: {reference: label}", "data: {reference: label, filter: {metadata: {equal: {team: red}}}}")
    with pytest.raises(SettingsError, match=r"millrace.yaml:\d+: loops.learn.data.filter.metadata.equal: "):
        parse_settings(wrong, "millrace.yaml")


def test_a_split_leaves_something_to_train_on() -> None:
    with pytest.raises(ValidationError, match=r"validation \+ test = 1 leave nothing to train on"):
        Split(validation=0.5, test=0.5)
    with pytest.raises(ValidationError, match="by"):
        DatasetOrder.model_validate({"reference": "label", "by": "team"})
