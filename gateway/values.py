# SPDX-License-Identifier: Apache-2.0
"""Checks of the fields whose values are no plain ones: what an answer must look like, tools, metadata."""

from typing import Any

from contract.errors import InvalidRequest
from gateway.checks import (
    Check,
    described,
    flag,
    invalid,
    json_object,
    known_members,
    list_of,
    members_of,
    number,
    object_of,
    one_of,
    only,
    schema_of,
    text,
)
from gateway.schemas import JSON_SCHEMA, check_schema

MAX_MODEL_NAME = 256
_bias = number(-100, 100)
_stops = list_of(text, 16)
_format = one_of("text", "json_object", "json_schema")
_choice = one_of("none", "auto", "required")
_kind = only("function")
FUNCTION: dict[str, Check] = {"name": text, "description": text, "parameters": JSON_SCHEMA, "strict": flag}
"""The members of a tool that the client has."""
_function = members_of(FUNCTION, ["name"])
_chosen = members_of({"type": _kind, "function": members_of({"name": text}, ["name"])}, ["type", "function"])


def _model(field: str, value: Any) -> str:
    if not 0 < len(text(field, value)) <= MAX_MODEL_NAME:
        raise invalid(field, value, f"is not 1 to {MAX_MODEL_NAME} characters long")
    return str(value)


def _stop(field: str, value: Any) -> Any:
    return value if isinstance(value, str) else _stops(field, value)


def _logit_bias(field: str, value: Any) -> dict[str, float]:
    return {token: _bias(f"{field}.{token}", bias) for token, bias in json_object(field, value).items()}


def _metadata(field: str, value: Any) -> dict[str, str]:
    pairs = json_object(field, value)
    if len(pairs) > 16:
        raise InvalidRequest(f"{field}: {len(pairs)} keys are more than the 16 allowed", param=field)
    for key, said in pairs.items():
        if len(key) > 64 or len(text(f"{field}.{key}", said)) > 512:
            raise invalid(f"{field}.{key}", said, "is too long: 64 characters a key, 512 a value")
    return pairs


def _response_format(field: str, value: Any) -> dict[str, Any]:
    members = known_members(field, value, {"type", "json_schema"})
    kind = _format(f"{field}.type", members.get("type"))
    if kind == "json_schema" or "json_schema" in members:
        form = json_object(f"{field}.json_schema", members.get("json_schema"))
        if isinstance(form.get("schema"), dict):
            check_schema(f"{field}.json_schema.schema", form["schema"])
    return members


def _tool_choice(field: str, value: Any) -> Any:
    if isinstance(value, str):
        return _choice(field, value)
    return _chosen(field, value)


def _anything(_field: str, value: Any) -> Any:
    return value


ANYTHING = described(_anything, {})
MODEL = described(_model, {"type": "string", "minLength": 1, "maxLength": MAX_MODEL_NAME})
"""The name of a model."""
STOP = described(_stop, {"anyOf": [schema_of(text), schema_of(_stops)]})
LOGIT_BIAS = described(_logit_bias, {"type": "object", "additionalProperties": schema_of(_bias)})
METADATA = described(
    _metadata,
    {
        "type": "object", "maxProperties": 16, "propertyNames": {"maxLength": 64},
        "additionalProperties": {"type": "string", "maxLength": 512},
    },
)  # fmt: skip
"""Pairs of text that an application puts beside a request."""
RESPONSE_FORMAT = described(
    _response_format,
    {
        "anyOf": [
            object_of({"type": {"enum": ["text", "json_object"]}, "json_schema": {"type": "object"}}, ["type"]),
            object_of({"type": {"const": "json_schema"}, "json_schema": {"type": "object"}}, ["type", "json_schema"]),
        ]
    },
)
TOOL = members_of({"type": _kind, "function": _function}, ["type", "function"])
TOOL_CHOICE = described(_tool_choice, {"anyOf": [schema_of(_choice), schema_of(_chosen)]})
