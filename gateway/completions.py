# SPDX-License-Identifier: Apache-2.0
"""Every field of a completion request (the older route, without messages), and what becomes of it.

As in `gateway.fields`: the OpenAI schema's fields are applied, accepted without effect, or refused by name.
"""

from typing import Any

import orjson

from contract.errors import InvalidRequest
from contract.settings import GatewaySettings
from gateway.asked import COMPLETIONS, Asked
from gateway.checks import Check, integer, only, refused, text
from gateway.fields import APPLIED as CHAT_APPLIED
from gateway.fields import EXTRAS, check_fields, check_model, check_stream
from gateway.prompts import PROMPT, how_many

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
    prompt = PROMPT("prompt", given.get("prompt"))
    prompts = how_many(prompt)
    n = checked.get("n", 1)
    if prompts * n > settings.max_choices:
        raise InvalidRequest(
            f"prompt: {prompts} prompts with n = {n} are more than the {settings.max_choices} answers allowed "
            "(gateway.max_choices)",
            param="prompt",
        )
    parameters = {name: value for name, value in checked.items() if name in APPLIED or name in EXTRAS}
    return Asked(
        endpoint=COMPLETIONS,
        model=check_model(given.get("model")),
        prompt=orjson.dumps(prompt),
        parameters=orjson.dumps(parameters),
        stream=stream,
        include_usage=include_usage,
        wants_logprobs="logprobs" in parameters,
        bounded=True,  # by 16 tokens where nothing is said, as the route has it
        user=checked.get("user"),
        n=n,
    )
