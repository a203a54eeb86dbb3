# SPDX-License-Identifier: Apache-2.0
"""Checks of one value in a request body; each raises an `InvalidRequest` that names the field and shows the value."""

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from contract.errors import InvalidRequest, UnknownParameter, UnsupportedParameter

Check = Callable[[str, Any], Any]
"""(name of the field, value) -> the value to use. Null never reaches a check: it means that the field is absent."""
Schema = dict[str, Any]
"""A JSON Schema (2020-12), as OpenAPI 3.1 has it."""
T = TypeVar("T")
C = TypeVar("C", bound=Check)
_SHOWN = 80
_EXACT = 2**53
_TYPES: dict[type, str] = {str: "string", bool: "boolean", dict: "object", list: "array"}


def described(check: C, schema: Schema) -> C:
    """The check, and what passes it as a schema for the OpenAPI document."""
    vars(check)["schema"] = schema
    return check


def schema_of(check: Check) -> Schema:
    """What passes a check; every check that a table of fields holds is described."""
    schema: Schema = vars(check)["schema"]
    return schema


def invalid(field: str, value: Any, wanted: str) -> InvalidRequest:
    """The error for a value that a field cannot have."""
    return InvalidRequest(f"{field}: {shown(value)} {wanted}", param=field)


def unknown(name: str, why: str) -> UnknownParameter:
    """The error for a name that nothing here has, cut where it is long."""
    name = name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…"
    return UnknownParameter(f"{name} {why}", param=name)


def shown(value: Any) -> str:
    """A value as JSON, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def typed(kind: type[T], name: str) -> Callable[[str, Any], T]:
    """Exactly that JSON type; no coercion."""

    def check(field: str, value: Any) -> T:
        if not isinstance(value, kind):
            raise invalid(field, value, f"is not {name}")
        return value

    return described(check, {"type": _TYPES[kind]})


def _whole(field: str, value: Any) -> int:
    written = value
    if isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT:
        written = int(value)  # 2.0 is 2 in JSON; a larger one may have been another number before it was read
    if not isinstance(written, int) or isinstance(written, bool):
        raise invalid(field, value, "is not a whole number")
    return written


text = typed(str, "a string")
flag = typed(bool, "true or false")
whole = described(_whole, {"type": "integer"})
json_object: Callable[[str, Any], dict[str, Any]] = typed(dict, "an object")
json_list: Callable[[str, Any], list[Any]] = typed(list, "a list")


def nullable(schema: Schema) -> Schema:
    """The schema of a member that may be null, which means that it is absent."""
    if schema.get("not") == {}:
        return {**{name: value for name, value in schema.items() if name != "not"}, "type": "null"}
    return {"anyOf": [schema, {"type": "null"}]} if schema else {}


def object_of(properties: Mapping[str, Schema], required: Collection[str] = ()) -> Schema:
    """The schema of an object with these members alone; one that is not required may be null."""
    members = {name: each if name in required else nullable(each) for name, each in properties.items()}
    return {"type": "object", "properties": members, "required": [*required], "additionalProperties": False}


def integer(low: int, high: int) -> Check:
    """A whole number in ``low..high``."""

    def check(field: str, value: Any) -> int:
        written = whole(field, value)
        if not low <= written <= high:
            raise invalid(field, value, f"is not in {low}..{high}")
        return written

    return described(check, {"type": "integer", "minimum": low, "maximum": high})


def number(low: float, high: float, *, above: bool = False) -> Check:
    """A number in ``low..high``, or over ``low`` where ``above``."""

    def check(field: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise invalid(field, value, "is not a number")
        if not low <= value <= high or (above and value == low):
            raise invalid(field, value, f"is not {'over' if above else 'at least'} {low:g} and at most {high:g}")
        return value

    return described(check, {"type": "number", "exclusiveMinimum" if above else "minimum": low, "maximum": high})


def one_of(*allowed: str) -> Check:
    """One of a few strings."""

    def check(field: str, value: Any) -> str:
        if value not in allowed:
            raise invalid(field, value, f"is not one of {', '.join(allowed)}")
        return str(value)

    return described(check, {"enum": list(allowed)})


def list_of(check_item: Check, at_most: int) -> Check:
    """A list whose every item passes ``check_item``."""

    def check(field: str, value: Any) -> list[Any]:
        items = json_list(field, value)
        if len(items) > at_most:
            raise InvalidRequest(f"{field}: {len(items)} items are more than the {at_most} allowed", param=field)
        return [check_item(f"{field}[{index}]", item) for index, item in enumerate(items)]

    return described(check, {"type": "array", "items": schema_of(check_item), "maxItems": at_most})


def only(*allowed: Any) -> Check:
    """A known field of which this installation can honour some values alone."""

    def check(field: str, value: Any) -> Any:
        if not any(value == choice and isinstance(value, bool) == isinstance(choice, bool) for choice in allowed):
            wanted = " or ".join(shown(choice) for choice in allowed)
            raise UnsupportedParameter(f"{field}: {shown(value)} is not supported here; only {wanted} is", param=field)
        return value

    return described(check, {"enum": list(allowed)})


def refused(why: str) -> Check:
    """A known field that this installation cannot honour at all."""

    def check(field: str, value: Any) -> Any:
        raise UnsupportedParameter(f"{field}: {shown(value)} was given, but {why}", param=field)

    return described(check, {"not": {}, "description": f"Refused: {why}."})


def members_of(members: Mapping[str, Check], required: Collection[str] = ()) -> Check:
    """An object that has the ``required`` members, and no other than these; without nulls."""

    def check(field: str, value: Any) -> dict[str, Any]:
        given = known_members(field, value, members)
        for name in required:
            members[name](f"{field}.{name}", given.get(name))
        return {name: members[name](f"{field}.{name}", member) for name, member in given.items()}

    return described(check, object_of({name: schema_of(each) for name, each in members.items()}, required))


def known_members(field: str, value: Any, known: Collection[str]) -> dict[str, Any]:
    """An object without nulls whose every member is one of ``known``."""
    members = json_object(field, value)
    for name in members:
        if name not in known:
            raise unknown(f"{field}.{name}", "is not a known field")
    return {name: member for name, member in members.items() if member is not None}
