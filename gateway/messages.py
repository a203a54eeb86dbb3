# SPDX-License-Identifier: Apache-2.0
"""The messages of a chat request: checked, and rebuilt from the fields that each role has."""

from typing import Any

import orjson

from contract.errors import InvalidRequest, UnsupportedParameter
from gateway.checks import Schema, invalid, json_list, json_object, known_members, object_of, one_of, schema_of, text

_TEXT_PARTS = ("text", "refusal")
_OTHER_PARTS = ("image_url", "input_audio", "file")
_FIELDS: dict[str, frozenset[str]] = {
    "system": frozenset({"content", "name"}),
    "developer": frozenset({"content", "name"}),
    "user": frozenset({"content", "name"}),
    "tool": frozenset({"content", "tool_call_id"}),
    # What an engine answers with may come back as it was, nulls and reasoning included.
    "assistant": frozenset(
        {"content", "name", "refusal", "tool_calls", "audio", "function_call", "annotations", "reasoning",
         "reasoning_content"}
    ),
}  # fmt: skip
_REFUSED = ("audio", "function_call")
_MAX_NESTED = 200
"""Objects and lists in what is nested no deeper, whatever it is."""


def parse_messages(value: Any, at_most: int) -> list[dict[str, Any]]:
    """The messages as they go to the engine.

    Raises:
        InvalidRequest: naming the message, the field and its value.
    """
    if value is None:
        raise InvalidRequest("messages: is missing", param="messages")
    messages = json_list("messages", value)
    if not messages:
        raise InvalidRequest("messages: [] holds no message", param="messages")
    if len(messages) > at_most:
        raise InvalidRequest(f"messages: {len(messages)} are more than the {at_most} allowed", param="messages")
    return [_message(f"messages[{index}]", message) for index, message in enumerate(messages)]


def _message(field: str, value: Any) -> dict[str, Any]:
    role = one_of(*_FIELDS)(f"{field}.role", json_object(field, value).get("role"))
    members = known_members(field, value, {"role"} | _FIELDS[role])
    for name in _REFUSED:
        if name in members:
            raise UnsupportedParameter(f"{field}.{name} is not supported here", param=f"{field}.{name}")
    if not json_list(f"{field}.annotations", members.get("annotations", [])):
        members.pop("annotations", None)
    if "content" in members:
        members["content"] = _content(f"{field}.content", members["content"])
    elif role != "assistant":
        raise invalid(f"{field}.content", None, "is not a string or a list of parts")
    if "tool_calls" in members:
        members["tool_calls"] = [
            _tool_call(f"{field}.tool_calls[{index}]", call)
            for index, call in enumerate(json_list(f"{field}.tool_calls", members["tool_calls"]))
        ]
    if role == "tool":
        text(f"{field}.tool_call_id", members.get("tool_call_id"))
    for name in ("name", "refusal", "reasoning", "reasoning_content"):
        if name in members:
            text(f"{field}.{name}", members[name])
    return members


def _content(field: str, value: Any) -> Any:
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise invalid(field, value, "is not a string or a list of parts")
    return [_part(f"{field}[{index}]", part) for index, part in enumerate(value)]


def _part(field: str, value: Any) -> dict[str, str]:
    kind = one_of(*_TEXT_PARTS, *_OTHER_PARTS)(f"{field}.type", json_object(field, value).get("type"))
    if kind in _OTHER_PARTS:
        # An engine would fetch the URLs in such parts from inside the private network.
        raise UnsupportedParameter(f"{field}.type: {kind} parts are not supported here", param=f"{field}.type")
    members = known_members(field, value, {"type", kind})
    return {"type": kind, kind: text(f"{field}.{kind}", members.get(kind))}


def check_arguments(field: str, value: Any) -> str:
    """Arguments as they are, JSON or not; but an engine reads them, and fails where they are nested too deeply."""
    arguments = text(field, value)
    if arguments.count("[") + arguments.count("{") > _MAX_NESTED:
        try:
            orjson.dumps(orjson.loads(arguments))  # orjson reads deeper than it writes
        except (orjson.JSONDecodeError, orjson.JSONEncodeError):
            raise invalid(field, value, "is no JSON that can be read") from None
    return arguments


def _tool_call(field: str, value: Any) -> dict[str, Any]:
    members = known_members(field, value, {"id", "type", "function", "index"})
    function = known_members(f"{field}.function", members.get("function"), {"name", "arguments"})
    return {
        "id": text(f"{field}.id", members.get("id")),
        "type": one_of("function")(f"{field}.type", members.get("type", "function")),
        "function": {
            "name": text(f"{field}.function.name", function.get("name")),
            "arguments": check_arguments(f"{field}.function.arguments", function.get("arguments")),
        },
    }


_TEXT = schema_of(text)
_PARTS = [object_of({"type": {"const": kind}, kind: _TEXT}, ["type", kind]) for kind in _TEXT_PARTS]
_CALL = object_of(
    {
        "id": _TEXT, "type": {"const": "function"}, "index": {},
        "function": object_of({"name": _TEXT, "arguments": _TEXT}, ["name", "arguments"]),
    },
    ["id", "function"],
)  # fmt: skip
_SCHEMAS: dict[str, Schema] = {
    "annotations": schema_of(json_list),
    "content": {"anyOf": [_TEXT, {"type": "array", "items": {"anyOf": _PARTS}}]},
    "tool_calls": {"type": "array", "items": _CALL},
    **dict.fromkeys(("name", "reasoning", "reasoning_content", "refusal", "tool_call_id"), _TEXT),
    **{name: {"not": {}} for name in _REFUSED},
}


def _schema(role: str) -> Schema:
    members = {"role": {"const": role}, **{name: _SCHEMAS[name] for name in sorted(_FIELDS[role])}}
    needed = [] if role == "assistant" else ["content"]
    return object_of(members, ["role", *needed, *(["tool_call_id"] if role == "tool" else [])])


MESSAGE: Schema = {"anyOf": [_schema(role) for role in _FIELDS]}
"""One message, as `parse_messages` takes it."""
