# SPDX-License-Identifier: Apache-2.0
"""Every field of a completion request (the older route, without messages), and what becomes of it.

As in `gateway.fields`: the OpenAI schema's fields are applied, accepted without effect, or refused by name.
"""

from typing import Any

import orjson

from contract.errors import InvalidRequest
from contract.settings import GatewaySettings
from gateway.asked import COMPLETIONS, Asked
from gateway.checks import Check, described, integer, invalid, list_of, only, refused, schema_of, text
from gateway.fields import APPLIED as CHAT_APPLIED
from gateway.fields import EXTRAS, check_fields, check_model, check_stream

_token = integer(0, 2**31 - 1)
_MAX_TOKENS = 2**20
"""Of one prompt given as tokens: more than any engine here can mean."""
_LIKE_CHAT = ("frequency_penalty", "logit_bias", "n", "presence_penalty", "seed", "stop", "temperature", "top_p")

APPLIED: dict[str, Check] = {
    **{name: CHAT_APPLIED[name] for name in _LIKE_CHAT},
    "logprobs": integer(0, 5),
    "max_tokens": CHAT_APPLIED["max_tokens"],
}
"""Sent on to the engine as they are."""
# An engine with adapters dies of an echo together with log-probabilities (vLLM 0.32: those of the prompt are computed
# for a batch that does not fit), and the gateway itself asks for log-probabilities where the policy keeps them.
ACCEPTED: dict[str, Check] = {"best_of": only(1), "echo": only(False)}
"""Without effect: the only value there is."""
REFUSED: dict[str, Check] = {"suffix": refused("no model here fills in the middle")}
OWN = frozenset({"prompt", "model", "stream", "stream_options"})
KEPT: dict[str, Check] = {"user": text}
"""For the record alone."""
_KNOWN = {**APPLIED, **EXTRAS, **KEPT, **ACCEPTED, **REFUSED}


def parse_completion(document: dict[str, Any], settings: GatewaySettings) -> Asked:
    """A completion request, every field checked.

    Raises:
        InvalidRequest: naming the field and its value.
    """
    given, checked = check_fields(document, OWN, _KNOWN, "completion", settings)
    stream, include_usage = check_stream(given)
    prompts = PROMPT("prompt", given.get("prompt"))
    n = checked.get("n", 1)
    if len(prompts) * n > settings.max_choices:
        raise InvalidRequest(
            f"prompt: {len(prompts)} prompts with n = {n} are more than the {settings.max_choices} answers allowed "
            "(gateway.max_choices)",
            param="prompt",
        )
    parameters = {name: value for name, value in checked.items() if name in APPLIED or name in EXTRAS}
    return Asked(
        endpoint=COMPLETIONS,
        model=check_model(given.get("model")),
        prompt=orjson.dumps(prompts if _is_several(given["prompt"]) else prompts[0]),
        parameters=orjson.dumps(parameters),
        stream=stream,
        include_usage=include_usage,
        wants_logprobs="logprobs" in parameters,
        bounded=True,  # by 16 tokens where nothing is said, as the route has it
        user=checked.get("user"),
        n=n,
    )


def _prompts(field: str, value: Any) -> list[Any]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        raise invalid(field, value, "is not a string, a list of strings, or tokens")
    if isinstance(value[0], str):
        return list(list_of(text, len(value))(field, value))
    if isinstance(value[0], list):
        return [_tokens(f"{field}[{index}]", each) for index, each in enumerate(value)]
    return [_tokens(field, value)]


def _is_several(value: Any) -> bool:
    return isinstance(value, list) and isinstance(value[0], str | list)


def _tokens(field: str, value: Any) -> list[int]:
    tokens: list[int] = list_of(_token, _MAX_TOKENS)(field, value)
    if not tokens:
        raise invalid(field, value, "holds no token")
    return tokens


_TOKENS = {**schema_of(list_of(_token, _MAX_TOKENS)), "minItems": 1}
PROMPT = described(
    _prompts,
    {
        "anyOf": [
            schema_of(text),
            {"type": "array", "items": schema_of(text), "minItems": 1},
            _TOKENS,
            {"type": "array", "items": _TOKENS, "minItems": 1},
        ]
    },
)
"""The prompts: one or several, each a text or a list of tokens."""
