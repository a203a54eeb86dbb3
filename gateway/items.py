# SPDX-License-Identifier: Apache-2.0
"""The input of a request for a response, as the messages of a chat completion.

A function call belongs to the assistant's message before it, and so does what it reasoned before it answered: chat
templates know of both in this form alone.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from contract.errors import InvalidRequest, UnsupportedParameter
from gateway.checks import (
    Check,
    Schema,
    invalid,
    json_list,
    json_object,
    known_members,
    list_of,
    members_of,
    object_of,
    one_of,
    only,
    refused,
    schema_of,
    shown,
    text,
)
from gateway.messages import check_arguments

_ROLES = ("user", "assistant", "system", "developer")
_TEXT_PARTS = {
    "input_text": frozenset({"text", "prompt_cache_breakpoint"}),
    "output_text": frozenset({"text", "annotations", "logprobs"}),
}
"""Kind of part -> its members; all but the text change no answer."""
_OTHER_PARTS = ("input_image", "input_file", "input_audio", "computer_screenshot")
_TOOLS_ELSEWHERE: dict[str, Check] = {
    "async": only(False),
    "caller": only({"type": "direct"}),
    "namespace": refused("tools have no namespaces here"),
}
_ITEMS: dict[str, frozenset[str]] = {
    "message": frozenset({"role", "content", "id", "status", "phase"}),
    "function_call": frozenset({"arguments", "call_id", "name", "id", "status", *_TOOLS_ELSEWHERE}),
    "function_call_output": frozenset({"output", "call_id", "name", "id", "status", "caller", "namespace"}),
    "reasoning": frozenset({"summary", "content", "encrypted_content", "id", "status"}),
}
"""Kind of item -> its members."""


def parse_input(value: Any, instructions: str | None, at_most: int) -> list[dict[str, Any]]:
    """The messages as they go to the engine.

    Raises:
        InvalidRequest: naming the item, the field and its value.
    """
    before: list[dict[str, Any]] = [] if instructions is None else [{"role": "system", "content": instructions}]
    if value is None:
        raise InvalidRequest("input: is missing", param="input")
    if isinstance(value, str):
        return [*before, {"role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        raise invalid("input", value, "is not a string or a list of items")
    if len(value) > at_most:
        raise InvalidRequest(f"input: {len(value)} items are more than the {at_most} allowed", param="input")
    conversation = _Conversation(before)
    for index, item in enumerate(value):
        conversation.add(f"input[{index}]", item)
    return conversation.messages


class _Conversation:
    """Messages, item by item."""

    def __init__(self, messages: list[dict[str, Any]]) -> None:
        self.messages = messages
        self._reasoning = ""
        """Of the assistant's message that comes next."""

    def add(self, field: str, value: Any) -> None:
        item = json_object(field, value)
        kind = item.get("type")
        if kind is None and item.get("role") is not None:
            kind = "message"
        if not isinstance(kind, str) or kind not in _ITEMS:
            raise UnsupportedParameter(
                f"{field}.type: {shown(kind)} items are not supported here", param=f"{field}.type"
            )
        members = known_members(field, value, {"type", *_ITEMS[kind]})
        for name, check in _TOOLS_ELSEWHERE.items():
            if name in members:
                check(f"{field}.{name}", members[name])
        take: dict[str, Callable[[str, dict[str, Any]], None]] = {
            "message": self._message,
            "function_call": self._call,
            "function_call_output": self._result,
            "reasoning": self._thought,
        }
        take[kind](field, members)

    def _message(self, field: str, members: dict[str, Any]) -> None:
        role = one_of(*_ROLES)(f"{field}.role", members.get("role"))
        content = _content(f"{field}.content", members.get("content"), may_refuse=role == "assistant")
        if role == "assistant":
            self._answer(content=content)
        else:
            self._other({"role": role, "content": content})

    def _call(self, field: str, members: dict[str, Any]) -> None:
        name = text(f"{field}.name", members.get("name"))
        arguments = check_arguments(f"{field}.arguments", members.get("arguments"))
        call = {"name": name, "arguments": arguments}
        last = self.messages[-1] if self.messages else {}
        if last.get("role") != "assistant" or self._reasoning:
            last = self._answer()
        last.setdefault("tool_calls", []).append(
            {"id": text(f"{field}.call_id", members.get("call_id")), "type": "function", "function": call}
        )

    def _result(self, field: str, members: dict[str, Any]) -> None:
        identifier = text(f"{field}.call_id", members.get("call_id"))
        output = _content(f"{field}.output", members.get("output"))
        self._other({"role": "tool", "tool_call_id": identifier, "content": output})

    def _thought(self, field: str, members: dict[str, Any]) -> None:
        parts = _reasoned(f"{field}.content", members.get("content", []))
        json_list(f"{field}.summary", members.get("summary", []))  # without effect: of no use to a model
        if not parts and "encrypted_content" in members:
            raise UnsupportedParameter(
                f"{field}.encrypted_content cannot be read here", param=f"{field}.encrypted_content"
            )
        self._reasoning += "".join(part["text"] for part in parts)

    def _answer(self, **members: Any) -> dict[str, Any]:
        reasoning, self._reasoning = self._reasoning, ""
        message = {"role": "assistant", **members, **({"reasoning": reasoning} if reasoning else {})}
        self.messages.append(message)
        return message

    def _other(self, message: dict[str, Any]) -> None:
        self._reasoning = ""
        self.messages.append(message)


def _content(field: str, value: Any, *, may_refuse: bool = False) -> Any:
    """A text, or where there are several parts, those of a chat message."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise invalid(field, value, "is not a string or a list of parts")
    parts = [_part(f"{field}[{index}]", part, may_refuse) for index, part in enumerate(value)]
    if not parts:
        return ""
    return parts[0]["text"] if len(parts) == 1 and "text" in parts[0] else parts


def _part(field: str, value: Any, may_refuse: bool) -> dict[str, str]:
    refusal = ("refusal",) if may_refuse else ()
    kind = one_of(*_TEXT_PARTS, *refusal, *_OTHER_PARTS)(f"{field}.type", json_object(field, value).get("type"))
    if kind in _OTHER_PARTS:
        # An engine would fetch the URLs in such parts from inside the private network.
        raise UnsupportedParameter(f"{field}.type: {kind} parts are not supported here", param=f"{field}.type")
    name = "refusal" if kind == "refusal" else "text"
    members = known_members(field, value, {"type", *_TEXT_PARTS.get(kind, refusal)})
    return {"type": name, name: text(f"{field}.{name}", members.get(name))}


_reasoned = list_of(members_of({"type": only("reasoning_text"), "text": text}, ["type", "text"]), 1024)
_TEXT = schema_of(text)


def _schema(kind: str, members: Mapping[str, Schema], required: Collection[str]) -> Schema:
    """Of an item or a part; of the members that are not named here any value is taken."""
    known = {**_ITEMS, **_TEXT_PARTS, "refusal": frozenset({"refusal"})}[kind]
    given = {name: members.get(name, {}) for name in sorted(known)}
    for name in known & _TOOLS_ELSEWHERE.keys():
        given[name] = schema_of(_TOOLS_ELSEWHERE[name])
    return object_of({"type": {"const": kind}, **given}, required)


def _content_schema(*kinds: str) -> Schema:
    parts = []
    for kind in kinds:
        name = "refusal" if kind == "refusal" else "text"
        parts.append(_schema(kind, {name: _TEXT}, ["type", name]))
    return {"anyOf": [_TEXT, {"type": "array", "items": {"anyOf": parts}}]}


def _message_schema(roles: Collection[str], *kinds: str) -> Schema:
    members: dict[str, Schema] = {"role": {"enum": [*roles]}, "content": _content_schema(*kinds)}
    return _schema("message", members, ["role", "content"])


_CALL = {"arguments": _TEXT, "call_id": _TEXT, "name": _TEXT}
_THOUGHT = _schema("reasoning", {"content": schema_of(_reasoned), "summary": schema_of(json_list)}, ["type"])
_IN_THE_CLEAR: Schema = {
    "anyOf": [
        {"properties": {"encrypted_content": {"type": "null"}}},
        {"properties": {"content": {"type": "array", "minItems": 1}}, "required": ["content"]},
    ]
}
ITEM: Schema = {
    "anyOf": [
        _message_schema([role for role in _ROLES if role != "assistant"], *_TEXT_PARTS),
        _message_schema(["assistant"], *_TEXT_PARTS, "refusal"),
        _schema("function_call", _CALL, ["type", *_CALL]),
        _schema(
            "function_call_output",
            {"output": _content_schema(*_TEXT_PARTS), "call_id": _TEXT},
            ["type", "output", "call_id"],
        ),
        {**_THOUGHT, "allOf": [_IN_THE_CLEAR]},
    ]
}
"""One item, as `parse_input` takes it."""
