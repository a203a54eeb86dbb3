# SPDX-License-Identifier: Apache-2.0
"""Records for the logger's tests: plain, and as hypothesis makes them."""

from typing import Any

from contract.records import Feedback, Invocation, Status


def invocation(identifier: str = "inv_1", status: Status = Status.COMPLETE, **fields: Any) -> Invocation:
    """An invocation with what every test needs filled in."""
    base: dict[str, Any] = {
        "time": 1_700_000_000_000_000_000,
        "project": "default",
        "key": "key_1",
        "endpoint": "/v1/chat/completions",
        "alias": "triage",
        "version": "triage@0123456789ab",
        "messages": '[{"role":"user","content":"a"}]',
        "choices": '[{"index":0,"message":{"role":"assistant","content":"good"},"finish_reason":"stop"}]',
        "finish_reasons": ["stop"],
    }
    return Invocation(id=identifier, status=status, **(base | fields))


def label(
    identifier: str, invocation_id: str | None, value: str = '"good"', metric: str = "label", **fields: Any
) -> Feedback:
    """A feedback record on an invocation, or on ``conversation`` where that is given."""
    base: dict[str, Any] = {"time": 1_700_000_000_000_000_000, "project": "default"}
    return Feedback(id=identifier, invocation=invocation_id, metric=metric, value=value, **(base | fields))
