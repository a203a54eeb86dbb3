# SPDX-License-Identifier: Apache-2.0
"""``POST /v1/feedback``: what a user said of an answer or a conversation, typed as the settings declare it."""

from typing import Any

import orjson

from contract.errors import InvalidRequest, NotFound
from contract.ids import invocation_of, is_own_invocation, new_id
from contract.records import Feedback
from contract.settings import FeedbackMetric
from gateway.checks import Check, described, flag, integer, invalid, known_members, number, one_of, text, unknown

_FIELDS = frozenset({"invocation", "conversation", "choice", "metric", "value", "author"})
_BIG = 1e308
_LONGEST = {"label": 512, "comment": 64 * 1024, "demonstration": 1024 * 1024}


def _short(field: str, value: Any) -> str:
    if not 0 < len(text(field, value)) <= 512:
        raise invalid(field, value, "is not 1 to 512 characters long")
    return str(value)


SHORT = described(_short, {"type": "string", "minLength": 1, "maxLength": 512})
CHOICE = integer(0, 1024)
SUBJECTS: dict[str, Check] = {"invocation": text, "conversation": SHORT}
"""What feedback is on: one of them."""


def parse_feedback(
    document: dict[str, Any], metrics: dict[str, FeedbackMetric], project: str, secret: bytes, now_ns: int
) -> Feedback:
    """The record for a feedback request.

    Raises:
        InvalidRequest: naming the field and its value.
        NotFound: the invocation is none that this installation gave to this project.
    """
    for name in document:
        if name not in _FIELDS:
            raise unknown(name, "is not a known field of feedback")
    given = known_members("feedback", document, _FIELDS)
    if ("invocation" in given) == ("conversation" in given):
        raise InvalidRequest(
            "feedback is on either an invocation or a conversation; give one of them", param="invocation"
        )
    if "choice" in given and "invocation" not in given:
        raise invalid("choice", given["choice"], "needs an invocation")
    metric = one_of(*sorted(metrics))("metric", text("metric", given.get("metric"))) if metrics else _no_metrics()
    return Feedback(
        id=new_id("fb"),
        time=now_ns,
        project=project,
        metric=metric,
        value=orjson.dumps(_value(metric, metrics[metric], given.get("value"))).decode(),
        invocation=_own(text("invocation", given["invocation"]), project, secret) if "invocation" in given else None,
        choice=CHOICE("choice", given["choice"]) if "choice" in given else None,
        conversation=SHORT("conversation", given["conversation"]) if "conversation" in given else None,
        author=SHORT("author", given["author"]) if "author" in given else None,
    )


def _value(name: str, metric: FeedbackMetric, value: Any) -> Any:
    try:
        return value_check(metric)("value", value)
    except InvalidRequest as error:
        raise InvalidRequest(f"{error.message}; the metric {name!r} is a {metric.type}", param="value") from error


def as_answer(record: Feedback) -> dict[str, Any]:
    """What the client is told."""
    said = {
        "invocation": record.invocation, "conversation": record.conversation, "choice": record.choice,
        "metric": record.metric, "value": orjson.loads(record.value), "author": record.author,
    }  # fmt: skip
    return {"id": record.id, "object": "feedback", "created": record.time // 1_000_000_000, **said}


def value_check(metric: FeedbackMetric) -> Check:
    """What a value of the metric must be."""
    if metric.type == "boolean":
        return flag
    if metric.type == "number":
        return number(-_BIG, _BIG)
    if metric.values is not None:
        return one_of(*metric.values)
    longest = _LONGEST[metric.type]

    def check(field: str, value: Any) -> str:
        if not 0 < len(text(field, value)) <= longest:
            raise invalid(field, value, f"is not 1 to {longest} characters long")
        return str(value)

    return described(check, {"type": "string", "minLength": 1, "maxLength": longest})


def _own(reference: str, project: str, secret: bytes) -> str:
    invocation = invocation_of(reference)
    if not is_own_invocation(invocation, project, secret):
        raise NotFound(f"there is no invocation {reference!r}", param="invocation")
    return invocation


def _no_metrics() -> str:
    raise InvalidRequest("no feedback metric is declared under log.feedback in the settings", param="metric")
