# SPDX-License-Identifier: Apache-2.0
"""Every field of a request for embeddings, and what becomes of it; as in `gateway.fields`."""

from typing import Any

import orjson

from contract.errors import InvalidRequest
from contract.settings import GatewaySettings
from gateway.asked import EMBEDDINGS, Asked
from gateway.checks import Check, integer, one_of, text
from gateway.fields import check_fields, check_model
from gateway.prompts import PROMPT, how_many

_MAX_DIMENSIONS = 2**16

APPLIED: dict[str, Check] = {
    "dimensions": integer(1, _MAX_DIMENSIONS),
    "encoding_format": one_of("float", "base64"),
}
"""Sent on to the engine as they are."""
EXTRAS: dict[str, Check] = {}
ACCEPTED: dict[str, Check] = {}
REFUSED: dict[str, Check] = {}
OWN = frozenset({"input", "model"})
KEPT: dict[str, Check] = {"user": text}
"""For the record alone."""


def parse_embeddings(document: dict[str, Any], settings: GatewaySettings) -> Asked:
    """A request for embeddings, every field checked.

    Raises:
        InvalidRequest: naming the field and its value.
    """
    given, checked = check_fields(document, OWN, {**APPLIED, **KEPT}, "embeddings", settings)
    prompt = PROMPT("input", given.get("input"))
    if how_many(prompt) > settings.max_messages:
        raise InvalidRequest(
            f"input: {how_many(prompt)} are more than the {settings.max_messages} allowed (gateway.max_messages)",
            param="input",
        )
    return Asked(
        endpoint=EMBEDDINGS,
        model=check_model(given.get("model")),
        prompt=orjson.dumps(prompt),
        parameters=orjson.dumps({name: value for name, value in checked.items() if name in APPLIED}),
        stream=False,
        include_usage=False,
        wants_logprobs=False,
        bounded=True,  # nothing is generated
        user=checked.get("user"),
    )
