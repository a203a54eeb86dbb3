# SPDX-License-Identifier: Apache-2.0
"""Every field of a request for a response, and what becomes of it; as in `gateway.fields`.

Engines are asked for a chat completion in its place, so that whatever route an answer took, it is metered, logged and
learned from in one form. Nothing is remembered between requests: what a model is to know of a conversation comes with
every one.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from contract.settings import GatewaySettings
from gateway.asked import CHAT, Asked
from gateway.checks import (
    Check,
    flag,
    integer,
    invalid,
    known_members,
    list_of,
    number,
    only,
    refused,
    text,
    whole,
)
from gateway.fields import ACCEPTED as CHAT_ACCEPTED
from gateway.fields import EXTRAS, check_fields, check_model
from gateway.fields import KEPT as CHAT_KEPT
from gateway.items import parse_input
from gateway.response_values import INCLUDE, LOGPROBS, REASONING, TEXT, TOOL, TOOL_CHOICE
from gateway.values import FUNCTION

APPLIED: dict[str, Check] = {
    "include": INCLUDE,
    "instructions": text,
    "max_output_tokens": whole,
    "parallel_tool_calls": flag,
    "reasoning": REASONING,
    "temperature": number(0, 2),
    "text": TEXT,
    "tool_choice": TOOL_CHOICE,
    "tools": list_of(TOOL, 128),
    "top_logprobs": integer(0, 20),
    "top_p": number(0, 1, above=True),
}
"""Sent on to the engine, as a chat completion has them."""
ACCEPTED: dict[str, Check] = {
    "background": only(False),
    "max_tool_calls": integer(1, 2**31 - 1),
    "prompt_cache_key": CHAT_ACCEPTED["prompt_cache_key"],
    "prompt_cache_options": CHAT_ACCEPTED["prompt_cache_options"],
    "prompt_cache_retention": CHAT_ACCEPTED["prompt_cache_retention"],
    "service_tier": CHAT_ACCEPTED["service_tier"],
    "store": flag,
    "truncation": only("disabled"),
}
"""Without effect: hints that change no answer, bounds of what is not there, or the only value there is."""
REFUSED: dict[str, Check] = {
    "access_programs": refused("there are none here"),
    "background_options": refused("nothing runs in the background"),
    "context_management": refused("no context is managed here"),
    "conversation": refused("no conversation is kept here; send its items as input"),
    "image": refused("no model here takes images"),
    "moderation": refused("no moderation is built in"),
    "previous_response_id": refused("no response is kept here; send its items as input"),
    "prompt": refused("no prompt templates are kept here"),
}
KEPT: dict[str, Check] = {name: CHAT_KEPT[name] for name in ("metadata", "safety_identifier", "user")}
"""For the record alone."""
OWN = frozenset({"input", "model", "stream", "stream_options"})
_KNOWN = {**APPLIED, **EXTRAS, **KEPT, **ACCEPTED, **REFUSED}


def parse_response(document: dict[str, Any], settings: GatewaySettings) -> Asked:
    """A request for a response, every field checked, as a chat completion.

    Raises:
        InvalidRequest: naming the field and its value.
    """
    given, checked = check_fields(document, OWN, _KNOWN, "response", settings)
    if "max_output_tokens" in checked:
        integer(1, settings.max_completion_tokens)("max_output_tokens", checked["max_output_tokens"])
    wants_logprobs = LOGPROBS in checked.get("include", ())
    if checked.get("top_logprobs") and not wants_logprobs:
        raise invalid("top_logprobs", checked["top_logprobs"], f"is allowed only with include: [{LOGPROBS}]")
    if not checked.get("tools") and checked.get("tool_choice", "auto") not in ("auto", "none"):
        raise invalid("tool_choice", checked["tool_choice"], "is allowed only with tools")
    return Asked(
        endpoint=CHAT,
        model=check_model(given.get("model")),
        prompt=orjson.dumps(parse_input(given.get("input"), checked.get("instructions"), settings.max_messages)),
        parameters=orjson.dumps(_parameters(checked)),
        stream=_stream(given),
        include_usage=False,
        wants_logprobs=wants_logprobs,
        bounded="max_output_tokens" in checked,
        user=checked.get("user", checked.get("safety_identifier")),
        metadata=checked.get("metadata"),
        echo=_echo(checked),
    )


def _stream(given: Mapping[str, Any]) -> bool:
    stream, options = flag("stream", given.get("stream", False)), given.get("stream_options")
    if options is not None:
        if not stream:
            raise invalid("stream_options", options, "is allowed only with stream: true")
        for name, option in known_members("stream_options", options, {"include_obfuscation"}).items():
            flag(f"stream_options.{name}", option)
    return stream


def _parameters(checked: Mapping[str, Any]) -> dict[str, Any]:
    """What the client set, as a chat completion has it."""
    chat = {name: value for name, value in checked.items() if name in _SAME or name in EXTRAS}
    if "max_output_tokens" in checked:
        chat["max_completion_tokens"] = checked["max_output_tokens"]
    if "effort" in checked.get("reasoning", ()):
        chat["reasoning_effort"] = checked["reasoning"]["effort"]
    if "format" in checked.get("text", ()):
        chat["response_format"] = _response_format(checked["text"]["format"])
    if checked.get("tools"):
        chat["tools"] = [_chat_function(tool) for tool in checked["tools"]]
        if "tool_choice" in checked:
            chosen = checked["tool_choice"]
            chat["tool_choice"] = chosen if isinstance(chosen, str) else _chat_function(chosen)
    if LOGPROBS in checked.get("include", ()):
        chat["logprobs"] = True
        chat["top_logprobs"] = checked.get("top_logprobs", 0)
    return chat


_SAME = frozenset({"parallel_tool_calls", "temperature", "top_p"})


def _response_format(wanted: dict[str, Any]) -> dict[str, Any]:
    if wanted["type"] != "json_schema":
        return wanted
    return {"type": "json_schema", "json_schema": {name: wanted[name] for name in wanted if name != "type"}}


def _chat_function(tool: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {name: tool[name] for name in tool if name != "type"}}


def _echo(checked: Mapping[str, Any]) -> dict[str, Any]:
    """What the answer repeats; null where the engine's own default holds."""
    asked = checked.get("reasoning", {})
    return {
        **dict.fromkeys(_REPEATED),
        **{name: checked[name] for name in _REPEATED if name in checked},
        "background": False,
        "metadata": checked.get("metadata", {}),
        "parallel_tool_calls": checked.get("parallel_tool_calls", True),
        "previous_response_id": None,
        "reasoning": {"effort": asked.get("effort"), "summary": asked.get("summary")},
        "service_tier": "default",
        "store": False,
        "text": {"format": {"type": "text"}, "verbosity": "medium", **checked.get("text", {})},
        "tool_choice": checked.get("tool_choice", "auto"),
        "tools": [{**dict.fromkeys(sorted(FUNCTION)), **tool} for tool in checked.get("tools", ())],
        "top_logprobs": checked.get("top_logprobs", 0),
        "truncation": "disabled",
    }


_REPEATED = (
    "instructions", "max_output_tokens", "max_tool_calls", "prompt_cache_key", "safety_identifier", "temperature",
    "top_p", "user",
)  # fmt: skip
