# SPDX-License-Identifier: Apache-2.0
"""Checks of the fields of a request for a response whose values are neither plain nor those of a chat request."""

from typing import Any

from gateway.checks import (
    Check,
    described,
    flag,
    json_object,
    list_of,
    members_of,
    object_of,
    one_of,
    only,
    refused,
    schema_of,
    text,
)
from gateway.fields import APPLIED as CHAT_APPLIED
from gateway.schemas import JSON_SCHEMA
from gateway.values import FUNCTION

LOGPROBS = "message.output_text.logprobs"
_INCLUDED = (LOGPROBS, "reasoning.encrypted_content")
"""The second without effect: reasoning is told in the clear."""
INCLUDE = list_of(only(*_INCLUDED), 16)
_UNUSED: dict[str, Check] = {
    "allowed_callers": only(["direct"]),
    "async": only(False),
    "defer_loading": only(False),
    "output_schema": refused("no output of a tool is checked"),
}
_kind = only("function")
_function = members_of({"type": _kind, **FUNCTION, **_UNUSED}, ["type", "name"])
_choice = one_of("none", "auto", "required")
_chosen = members_of({"type": _kind, "name": text}, ["type", "name"])
_summary = one_of("auto", "concise", "detailed")
_format = one_of("text", "json_object", "json_schema")
_plain = members_of({"type": _format}, ["type"])
_schema = members_of(
    {"type": _format, "name": text, "schema": JSON_SCHEMA, "strict": flag, "description": text},
    ["type", "name", "schema"],
)


def _answer_format(field: str, value: Any) -> dict[str, Any]:
    kind = _format(f"{field}.type", json_object(field, value).get("type"))
    members: dict[str, Any] = (_schema if kind == "json_schema" else _plain)(field, value)
    return members


def _tool(field: str, value: Any) -> dict[str, Any]:
    _kind(f"{field}.type", json_object(field, value).get("type"))  # first: other kinds have other members
    return {name: member for name, member in _function(field, value).items() if name not in _UNUSED}


def _tool_choice(field: str, value: Any) -> Any:
    if isinstance(value, str):
        return _choice(field, value)
    _kind(f"{field}.type", json_object(field, value).get("type"))
    return _chosen(field, value)


REASONING = members_of(
    {
        "context": only("auto"), "effort": CHAT_APPLIED["reasoning_effort"], "generate_summary": _summary,
        "mode": only("standard"), "summary": _summary,
    }
)  # fmt: skip
FORMAT = described(
    _answer_format,
    {
        "anyOf": [
            object_of({"type": {"enum": ["text", "json_object"]}}, ["type"]),
            {"allOf": [schema_of(_schema), {"properties": {"type": {"const": "json_schema"}}}]},
        ]
    },
)
TEXT = members_of({"format": FORMAT, "verbosity": only("medium")})
"""What an answer must look like."""
TOOL = described(_tool, schema_of(_function))
TOOL_CHOICE = described(_tool_choice, {"anyOf": [schema_of(_choice), schema_of(_chosen)]})
