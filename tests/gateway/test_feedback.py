# SPDX-License-Identifier: Apache-2.0
import json
import math
from typing import Any

import pytest

from contract.errors import InvalidRequest, MillraceError, NotFound
from contract.ids import new_invocation_id
from contract.records import Feedback
from contract.settings import FeedbackMetric
from gateway.feedback import as_answer, parse_feedback

SECRET = b"s" * 32
METRICS = {
    "label": FeedbackMetric(type="label", values=["good", "bad"]),
    "free": FeedbackMetric(type="label"),
    "stars": FeedbackMetric(type="number"),
    "ok": FeedbackMetric(type="boolean"),
    "note": FeedbackMetric(type="comment"),
    "better": FeedbackMetric(type="demonstration"),
}
OWN = new_invocation_id("p", SECRET)


def parsed(**fields: Any) -> Feedback:
    given = {"invocation": OWN, "metric": "label", "value": "good", **fields}
    document = {name: value for name, value in given.items() if value is not None}
    return parse_feedback(document, METRICS, "p", SECRET, 5 * 10**9)


@pytest.mark.parametrize("reference", [OWN, f"chatcmpl-{OWN}"], ids=["invocation", "response"])
def test_feedback_on_an_answer_by_either_id(reference: str) -> None:
    record = parsed(invocation=reference, choice=2, author="ann")
    assert (record.invocation, record.choice, record.author, record.project) == (OWN, 2, "ann", "p")
    assert (record.metric, record.value, record.time) == ("label", '"good"', 5 * 10**9)
    assert as_answer(record) == {
        "id": record.id, "object": "feedback", "created": 5, "invocation": OWN, "conversation": None, "choice": 2,
        "metric": "label", "value": "good", "author": "ann",
    }  # fmt: skip


def test_feedback_on_a_conversation() -> None:
    record = parsed(invocation=None, conversation="c1")
    assert (record.invocation, record.conversation) == (None, "c1")


@pytest.mark.parametrize(
    "reference",
    ["inv_1", OWN[:-1] + ("0" if OWN[-1] != "0" else "1"), new_invocation_id("other", SECRET), "", "é" * 48],
    ids=["short", "forged", "another project's", "empty", "not ASCII"],
)
def test_an_invented_id_or_another_projects_is_404_and_named(reference: str) -> None:
    with pytest.raises(NotFound) as caught:
        parsed(invocation=reference)
    assert reference in caught.value.message
    assert caught.value.param == "invocation"


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("label", "good"),
        ("free", "anything"),
        ("stars", 4),
        ("stars", -0.5),
        ("ok", False),
        ("note", "x"),
        ("better", "y"),
    ],
)
def test_a_value_of_the_metrics_type_is_taken(metric: str, value: Any) -> None:
    assert json.loads(parsed(metric=metric, value=value).value) == value


@pytest.mark.parametrize(
    ("fields", "param", "named"),
    [
        ({"metric": "mood"}, "metric", "mood"),
        ({"metric": None}, "metric", "null"),
        ({"value": "great"}, "value", "great"),
        ({"value": 5}, "value", "5"),
        ({"value": None}, "value", "null"),
        ({"metric": "stars", "value": "5"}, "value", '"5"'),
        ({"metric": "stars", "value": True}, "value", "true"),
        ({"metric": "ok", "value": 1}, "value", "1"),
        ({"metric": "note", "value": 1}, "value", "1"),
        ({"metric": "free", "value": "x" * 513}, "value", "512"),
        ({"metric": "free", "value": ""}, "value", "1 to 512"),
        ({"metric": "note", "value": ""}, "value", "1 to 65536"),
        ({"metric": "better", "value": "x" * (2**20 + 1)}, "value", "1 to 1048576"),
        ({"metric": "better", "value": ["x"]}, "value", "'better' is a demonstration"),
        ({"metric": "stars", "value": math.nan}, "value", "'stars' is a number"),
        ({"metric": "stars", "value": math.inf}, "value", "'stars' is a number"),
        ({"metric": "stars", "value": -math.inf}, "value", "'stars' is a number"),
        ({"metric": "stars", "value": 10**309}, "value", "'stars' is a number"),
        ({"metric": "ok", "value": "true"}, "value", "'ok' is a boolean"),
        ({"value": "great"}, "value", "'label' is a label"),
        ({"choice": 1025}, "choice", "1025"),
        ({"choice": True}, "choice", "true"),
        ({"choice": 0.5}, "choice", "0.5"),
        ({"choice": -1}, "choice", "-1"),
        ({"choice": "0"}, "choice", "0"),
        ({"invocation": None, "conversation": "c", "choice": 1}, "choice", "1"),
        ({"conversation": "c"}, "invocation", "either"),
        ({"invocation": None}, "invocation", "either"),
        ({"invocation": 5}, "invocation", "5"),
        ({"invocation": None, "conversation": ""}, "conversation", "512"),
        ({"author": 7}, "author", "7"),
        ({"rating": 7}, "rating", "rating"),
    ],
)
def test_a_bad_field_is_named_with_its_value(fields: dict[str, Any], param: str, named: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parsed(**fields)
    assert caught.value.param == param
    assert named in caught.value.message


def test_feedback_may_come_years_after_its_answer() -> None:
    old = new_invocation_id("p", SECRET, now_ns=lambda: 10**18)
    assert parsed(invocation=old, metric="stars", value=1).invocation == old


def test_without_a_declared_metric_there_is_no_feedback() -> None:
    with pytest.raises(MillraceError, match=r"log\.feedback"):
        parse_feedback({"invocation": OWN, "metric": "m", "value": 1}, {}, "p", SECRET, 0)
