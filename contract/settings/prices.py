# SPDX-License-Identifier: Apache-2.0
"""What a model costs: as the settings say, or as litellm lists it.

litellm's list lies in a file of its package, which is read without importing litellm. Amounts there are USD per token;
they are read as the decimals that they are written as, so a million tokens cost exactly what the list says.
"""

import functools
import importlib.util
import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
from pydantic import Field

from contract.money import TOKENS_PER_PRICE, parse_usd
from contract.settings.units import Section, Usd

_LIST = "model_prices_and_context_window_backup.json"
_BY_LENGTH = re.compile(r"(input|output|cache_read_input)_(cost_per_token|token_cost)_above_\w+_tokens")


class Price(Section):
    """USD per million tokens."""

    input: Usd = Field(description="prompt tokens not served from the cache")
    cached_input: Usd | None = Field(None, description="prompt tokens served from the cache; as input when absent")
    output: Usd = Field(description="generated tokens")


def listed_price(kind: str, model: str) -> Price:
    """What litellm lists for a provider's model; ``kind`` is litellm's name of the provider.

    Raises:
        ValueError: it lists none, or one that three prices per token do not say.
    """
    entry = _entry(kind, model)
    if entry is None or "input_cost_per_token" not in entry or "output_cost_per_token" not in entry:
        raise ValueError(f"litellm lists no price per token for {kind}/{model}")
    if any(_BY_LENGTH.fullmatch(name) for name in entry):
        raise ValueError(f"what litellm lists for {kind}/{model} depends on the length of the prompt")
    output = entry["output_cost_per_token"]
    if entry.get("output_cost_per_reasoning_token", output) != output:
        raise ValueError(f"litellm lists another price for the reasoning of {kind}/{model}")
    cached = entry.get("cache_read_input_token_cost")
    return Price.model_validate(
        {
            "input": _per_million(entry["input_cost_per_token"]),
            "cached_input": None if cached is None else _per_million(cached),
            "output": _per_million(output),
        }
    )


def listed_length(kind: str, model: str) -> int | None:
    """Tokens of the longest answer that the model gives, where litellm lists it."""
    length = (_entry(kind, model) or {}).get("max_output_tokens")
    return length if isinstance(length, int) else None


def _per_million(amount: Any) -> Decimal:
    price = Decimal(amount) * TOKENS_PER_PRICE
    parse_usd(price)  # here, so that what is wrong with the list is not told of the settings
    return price


def _entry(kind: str, model: str) -> dict[str, Any] | None:
    """What is listed under the full name, or under the model's where that is of the same provider."""
    for name in (f"{kind}/{model}", model):
        raw = _listed().get(name)
        if raw is not None:
            entry: dict[str, Any] = json.loads(bytes(raw), parse_float=Decimal)
            if entry.get("litellm_provider") == kind:
                return entry
    return None


@functools.cache
def _listed() -> dict[str, msgspec.Raw]:
    """Model -> its entry; empty where litellm is not installed."""
    package = importlib.util.find_spec("litellm")
    if package is None or package.origin is None:
        return {}
    return msgspec.json.decode(Path(package.origin).with_name(_LIST).read_bytes(), type=dict[str, msgspec.Raw])
