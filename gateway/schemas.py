# SPDX-License-Identifier: Apache-2.0
"""Bounds of the JSON schemas that an engine is to hold an answer to.

An engine compiles a schema before it writes a token, one or a few at a time and without a deadline (vLLM 0.32 with
xgrammar): one of 500 strings of different lengths, or of 5,000 properties, keeps every other request with a schema
waiting for minutes. What it fails to compile it calls an error of its own, which counts against the replica. So what is
too large, or cannot be meant, is refused here. What is within the bounds is compiled in a few seconds.
"""

from collections.abc import Iterator
from typing import Any

from contract.errors import InvalidRequest
from gateway.checks import described, invalid, json_object

MAX_ENUM = 1000
"""Values of all enums of a schema."""
MAX_PROPERTIES = 500
"""Of all objects of a schema."""
MAX_ALTERNATIVES = 64
"""Schemas that may hold at one place of an answer: by anyOf, oneOf and references, nested ones included."""
MAX_OBJECTS = 10_000
"""In a schema; the least that anything costs here."""
MAX_LENGTH = 100_000
"""Of a string, or of a list."""
MAX_PATTERN = 1000
"""Characters of a regular expression."""
_LENGTHS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")


def check_schema(field: str, schema: dict[str, Any]) -> dict[str, Any]:
    """The schema, where it is within the bounds.

    Raises:
        InvalidRequest: naming the field.
    """
    choices = properties = 0
    for number, node in enumerate(_objects(schema)):
        if number == MAX_OBJECTS:
            raise InvalidRequest(f"{field}: more than the {MAX_OBJECTS} objects allowed", param=field)
        choices += len(node["enum"]) if isinstance(node.get("enum"), list) else 0
        properties += len(node["properties"]) if isinstance(node.get("properties"), dict) else 0
        _check_lengths(field, node)
        _check_pattern(field, node.get("pattern"))
        _check_alternatives(field, schema, node)
    for number, most, what in ((choices, MAX_ENUM, "enum values"), (properties, MAX_PROPERTIES, "properties")):
        if number > most:
            raise InvalidRequest(f"{field}: {number} {what} are more than the {most} allowed", param=field)
    return schema


def _json_schema(field: str, value: Any) -> dict[str, Any]:
    return check_schema(field, json_object(field, value))


JSON_SCHEMA = described(
    _json_schema,
    {
        "type": "object",
        "description": f"A JSON schema with at most {MAX_ENUM} enum values, {MAX_PROPERTIES} properties, lengths of "
        f"{MAX_LENGTH} and patterns of {MAX_PATTERN} characters; no reference in it leads back to itself alone.",
    },
)
"""A schema that an engine can be asked to hold an answer to."""


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in a value, the value included."""
    left = [value]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            yield value
            left += value.values()
        elif isinstance(value, list):
            left += value


def _check_lengths(field: str, node: dict[str, Any]) -> None:
    for name in _LENGTHS:
        length = node.get(name)
        if isinstance(length, int | float) and not 0 <= length <= MAX_LENGTH:
            raise invalid(field, {name: length}, f"is not in 0..{MAX_LENGTH}")


def _check_pattern(field: str, pattern: Any) -> None:
    if isinstance(pattern, str) and ("\0" in pattern or len(pattern) > MAX_PATTERN):
        raise invalid(field, {"pattern": pattern}, f"is no pattern of up to {MAX_PATTERN} characters that are not null")


def _check_alternatives(field: str, schema: dict[str, Any], node: dict[str, Any]) -> None:
    """Also refuses a reference that leads back to itself before it comes to anything, as that has no end."""
    left, number = [node], 0
    while left:
        several = left.pop()
        number += 1
        for name in ("anyOf", "oneOf"):
            some = several.get(name)
            left += [each for each in some if isinstance(each, dict)] if isinstance(some, list) else ()
        target = _target(schema, several.get("$ref"))
        left += [target] if isinstance(target, dict) else ()
        if number + len(left) > MAX_ALTERNATIVES:
            message = f"more than {MAX_ALTERNATIVES} alternatives at one place, or a $ref that leads back to itself"
            raise InvalidRequest(f"{field}: {message}", param=field)


def _target(schema: dict[str, Any], reference: Any) -> Any:
    """What a JSON pointer leads to; None where it leads nowhere, which the engine says itself."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    node: Any = schema
    for part in reference[1:].split("/")[1:]:
        node = node.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(node, dict) else None
    return node
