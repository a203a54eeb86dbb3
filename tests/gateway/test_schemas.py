# SPDX-License-Identifier: Apache-2.0
"""Schemas that keep an engine busy or make it fail are refused before they reach one."""

from collections.abc import Callable
from typing import Any

import pytest

from contract.errors import InvalidRequest
from contract.settings import GatewaySettings
from gateway.fields import parse_chat
from gateway.responses import parse_response
from gateway.schemas import (
    MAX_ALTERNATIVES,
    MAX_ENUM,
    MAX_LENGTH,
    MAX_OBJECTS,
    MAX_PATTERN,
    MAX_PROPERTIES,
    check_schema,
)

LIST = {"$ref": "#/$defs/a", "$defs": {"a": {"type": "object", "properties": {"next": {"$ref": "#/$defs/a"}}}}}

ASK = {"messages": [{"role": "user", "content": "x"}]}
PLACES: dict[str, tuple[Any, Callable[[dict[str, Any]], dict[str, Any]]]] = {
    "response_format.json_schema.schema": (
        parse_chat,
        lambda schema: {
            **ASK, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        },
    ),
    "tools[0].function.parameters": (
        parse_chat,
        lambda schema: {**ASK, "tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]},
    ),
    "text.format.schema": (
        parse_response,
        lambda schema: {"input": "x", "text": {"format": {"type": "json_schema", "name": "x", "schema": schema}}},
    ),
    "tools[0].parameters": (
        parse_response,
        lambda schema: {"input": "x", "tools": [{"type": "function", "name": "f", "parameters": schema}]},
    ),
}  # fmt: skip
"""Where a schema stands in a request -> how that is read, and what it asks beside its model."""


@pytest.mark.parametrize(
    "schema",
    [
        {}, {"type": "object"}, LIST, {"type": "array", "items": {"$ref": "#"}}, {"$ref": "#/nowhere"}, {"$ref": "x"},
        {"enum": list(range(MAX_ENUM))}, {"type": "string", "maxLength": MAX_LENGTH, "pattern": "a" * MAX_PATTERN},
        {"properties": {"enum": {"type": "string"}, "pattern": {"type": "string"}, "maxLength": {}, "$ref": {}}},
        {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "string"}}},
        {"properties": {str(name): {"anyOf": [{"type": "string"}, {}]} for name in range(MAX_PROPERTIES)}},
        {"anyOf": [{"const": number} for number in range(MAX_ALTERNATIVES - 1)]},
    ],
)  # fmt: skip
def test_a_usual_schema_is_taken(schema: dict[str, Any]) -> None:
    assert check_schema("x", schema) is schema


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"enum": list(range(MAX_ENUM + 1))}, "enum values"),
        ({"anyOf": [{"enum": list(range(MAX_ENUM))}, {"enum": [1]}]}, "enum values"),
        ({"properties": {str(number): {} for number in range(MAX_PROPERTIES + 1)}}, "properties"),
        ({"minLength": -5}, "minLength"),
        ({"items": {"maxLength": 10**9}}, "maxLength"), ({"minItems": 1e300}, "minItems"),
        ({"anyOf": [{"maxLength": number} for number in range(MAX_ALTERNATIVES)]}, "alternatives"),
        ({"anyOf": [{"oneOf": [{"const": number} for number in range(9)]}] * 9}, "alternatives"),
        ({"anyOf": [{"$ref": "#/$defs/a"}] * 9, "$defs": {"a": {"anyOf": [{"type": "null"}] * 9}}}, "alternatives"),
        ({"allOf": [{}] * MAX_OBJECTS}, "objects"),
        ({"pattern": "a\0"}, "null"), ({"pattern": "a" * (MAX_PATTERN + 1)}, "pattern"),
        ({"$ref": "#"}, "itself"), ({"items": {"$ref": "#/items"}}, "itself"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}, "itself"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", PLACES)
def test_a_schema_that_harms_an_engine_is_refused_where_it_stands(
    schema: dict[str, Any], said: str, place: str
) -> None:
    parse, asked = PLACES[place]
    with pytest.raises(InvalidRequest, match=said) as caught:
        parse({"model": "m", **asked(schema)}, GatewaySettings())
    assert caught.value.param == place
