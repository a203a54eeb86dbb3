# SPDX-License-Identifier: Apache-2.0
"""Every field of a chat request, and what becomes of it.

The OpenAI schema's fields are all here (a test compares them with the pinned ``openai`` package): applied, accepted
without effect, or refused by name. Of the engine's own fields those in `EXTRAS` are allowed, as they change sampling
alone; every other one is unknown here, so nothing that names files, templates, other requests' caches or scheduling
ever reaches an engine.
"""

from collections.abc import Collection, Mapping
from typing import Any

import orjson

from contract.errors import InvalidRequest
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
    one_of,
    only,
    refused,
    text,
    unknown,
    whole,
)
from gateway.messages import parse_messages
from gateway.values import (
    ANYTHING,
    LOGIT_BIAS,
    METADATA,
    MODEL,
    RESPONSE_FORMAT,
    STOP,
    TOOL,
    TOOL_CHOICE,
)

_INT64 = 2**63
_LONGEST = frozenset({"max_tokens", "max_completion_tokens"})


APPLIED: dict[str, Check] = {
    "frequency_penalty": number(-2, 2),
    "logit_bias": LOGIT_BIAS,
    "logprobs": flag,
    "max_completion_tokens": whole,
    "max_tokens": whole,
    "n": whole,
    "parallel_tool_calls": flag,
    "presence_penalty": number(-2, 2),
    "reasoning_effort": one_of("none", "minimal", "low", "medium", "high", "xhigh"),
    "response_format": RESPONSE_FORMAT,
    "seed": integer(-_INT64, _INT64 - 1),
    "stop": STOP,
    "temperature": number(0, 2),
    "tool_choice": TOOL_CHOICE,
    "tools": list_of(TOOL, 128),
    "top_logprobs": integer(0, 20),
    "top_p": number(0, 1, above=True),
}
"""Sent on to the engine as they are."""
EXTRAS: dict[str, Check] = {
    "allowed_token_ids": list_of(integer(0, 2**31 - 1), 65536),
    "bad_words": list_of(text, 1024),
    "ignore_eos": flag,
    "include_reasoning": flag,
    "include_stop_str_in_output": flag,
    "min_p": number(0, 1),
    "min_tokens": integer(0, 2**31 - 1),
    "repetition_penalty": number(0.01, 10),  # far below, an engine's logits overflow and it answers with no numbers
    "skip_special_tokens": flag,
    "spaces_between_special_tokens": flag,
    "stop_token_ids": list_of(integer(0, 2**31 - 1), 1024),
    "top_k": integer(-1, 2**31 - 1),
}
"""The engine's own sampling fields that clients may use."""
KEPT: dict[str, Check] = {"metadata": METADATA, "safety_identifier": text, "store": flag, "user": text}
"""For the record alone."""
ACCEPTED: dict[str, Check] = {
    "modalities": list_of(only("text"), 4),
    "prediction": ANYTHING,
    "prompt_cache_key": text,
    "prompt_cache_options": ANYTHING,
    "prompt_cache_retention": text,
    "service_tier": only("auto", "default"),
}
"""Without effect: hints about speed that change no answer, or the only value there is."""
REFUSED: dict[str, Check] = {
    "audio": refused("no model here speaks"),
    "function_call": refused("it is deprecated; use tool_choice"),
    "functions": refused("it is deprecated; use tools"),
    "moderation": refused("no moderation is built in"),
    "verbosity": refused("the engine does not know it"),
    "web_search_options": refused("nothing here searches the web"),
}
OWN = frozenset({"messages", "model", "stream", "stream_options"})
"""Read by the gateway itself."""
_KNOWN = {**APPLIED, **EXTRAS, **KEPT, **ACCEPTED, **REFUSED}


def parse_body(body: bytes) -> dict[str, Any]:
    """A request body as a JSON object.

    Raises:
        InvalidRequest: it is none, or is nested too deeply.
    """
    try:
        document = orjson.loads(body)
        orjson.dumps(document)  # orjson reads deeper than it writes; all of this is to be written again
    except (orjson.JSONDecodeError, orjson.JSONEncodeError) as error:
        raise InvalidRequest(f"the body is not JSON that can be taken: {error}", code="invalid_json") from None
    if not isinstance(document, dict):
        raise InvalidRequest("the body is not a JSON object", code="invalid_json")
    return document


def parse_chat(document: dict[str, Any], settings: GatewaySettings) -> Asked:
    """A chat request, every field checked.

    Raises:
        InvalidRequest: naming the field and its value.
    """
    given, checked = check_fields(document, OWN, _KNOWN, "chat", settings)
    if "top_logprobs" in checked and not checked.get("logprobs"):
        raise invalid("top_logprobs", checked["top_logprobs"], "is allowed only with logprobs: true")
    stream, include_usage = check_stream(given)
    parameters = {name: value for name, value in checked.items() if name in APPLIED or name in EXTRAS}
    if parameters.get("logprobs") is False:
        del parameters["logprobs"]  # as if absent; the gateway may ask for them itself
    return Asked(
        endpoint=CHAT,
        model=check_model(given.get("model")),
        prompt=orjson.dumps(parse_messages(given.get("messages"), settings.max_messages)),
        parameters=orjson.dumps(parameters),
        stream=stream,
        include_usage=include_usage,
        wants_logprobs="logprobs" in parameters,
        bounded=bool(_LONGEST & parameters.keys()),
        user=checked.get("user", checked.get("safety_identifier")),
        metadata=checked.get("metadata"),
        n=checked.get("n", 1),
        store=checked.get("store", False),
    )


def check_fields(
    document: dict[str, Any], own: Collection[str], known: Mapping[str, Check], kind: str, settings: GatewaySettings
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What was given, without nulls, and those fields of it that are not the gateway's ``own``, each checked.

    Raises:
        InvalidRequest: naming the field and its value; also where it is over a bound of the settings.
    """
    for name in document:
        if name not in own and name not in known:
            raise unknown(name, f"is not a known field of a {kind} request")
    given = {name: value for name, value in document.items() if value is not None}
    checked = {name: known[name](name, value) for name, value in given.items() if name not in own}
    for name in _LONGEST & checked.keys():
        integer(1, settings.max_completion_tokens)(name, checked[name])
    if "n" in checked:
        integer(1, settings.max_choices)("n", checked["n"])
    return given, checked


def check_model(value: Any) -> str:
    """The name of a model."""
    if value is None:
        raise InvalidRequest("model: is missing", param="model")
    return MODEL("model", value)


def check_stream(given: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether a stream is wanted, and whether it is to end with its usage."""
    stream, value = flag("stream", given.get("stream", False)), given.get("stream_options")
    if value is None:
        return stream, False
    if not stream:
        raise invalid("stream_options", value, "is allowed only with stream: true")
    options = known_members("stream_options", value, {"include_usage", "include_obfuscation"})
    for name, option in options.items():
        flag(f"stream_options.{name}", option)
    return stream, bool(options.get("include_usage"))
