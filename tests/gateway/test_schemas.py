# SPDX-License-Identifier: Apache-2.0
"""Schemas that keep an engine busy or make it fail are refused before they reach one."""

from typing import Any

import pytest

from contract.errors import InvalidRequest
from contract.settings import GatewaySettings
from gateway.fields import parse_chat
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
@pytest.mark.parametrize("place", ["response_format.json_schema.schema", "tools[0].function.parameters"])
def test_a_schema_that_harms_an_engine_is_refused_where_it_stands(
    schema: dict[str, Any], said: str, place: str
) -> None:
    fields: dict[str, Any] = (
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]}
        if place.startswith("tools")
        else {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}
    )
    with pytest.raises(InvalidRequest, match=said) as caught:
        parse_chat({"model": "m", "messages": [{"role": "user", "content": "x"}], **fields}, GatewaySettings())
    assert caught.value.param == place
