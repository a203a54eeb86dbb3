# SPDX-License-Identifier: Apache-2.0
"""What a provider's model costs where the settings do not say."""

import json
from collections.abc import Callable
from decimal import Decimal
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from contract.settings import listed_length, listed_price, prices

ENTRY = {"litellm_provider": "far", "input_cost_per_token": 1.5e-07, "output_cost_per_token": 6e-07}


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], int]:
    """Puts a list of prices in the place of litellm's."""
    spec = ModuleSpec("litellm", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(prices.importlib.util, "find_spec", lambda _name: spec)
    monkeypatch.setattr(prices, "_listed", prices._listed.__wrapped__)
    return (tmp_path / prices._LIST).write_text


def test_a_known_model_costs_exactly_what_litellm_lists() -> None:
    price = listed_price("openai", "gpt-4o-mini")
    assert (price.input, price.cached_input, price.output) == (150_000_000, 75_000_000, 600_000_000)
    assert listed_length("openai", "gpt-4o-mini") == 16384


def test_every_price_of_the_list_is_the_decimal_that_is_written_there() -> None:
    checked = 0
    for name, raw in prices._listed().items():
        entry = json.loads(bytes(raw), parse_float=str)
        kind, _, model = name.rpartition("/") if "/" in name else (entry.get("litellm_provider"), "", name)
        try:
            price = listed_price(kind, model)
        except ValueError:
            continue
        assert price.input == Decimal(entry["input_cost_per_token"]) * 10**15
        assert price.output == Decimal(entry["output_cost_per_token"]) * 10**15
        checked += 1
    assert checked > 500


def test_a_list_is_read_as_written_and_not_as_floats(listed: Callable[[str], int]) -> None:
    listed('{"far/m": {"litellm_provider": "far", "input_cost_per_token": 0.000000123456789, '
                 '"output_cost_per_token": 3, "max_output_tokens": 77}}')  # fmt: skip
    price = listed_price("far", "m")
    assert (price.input, price.cached_input, price.output) == (123_456_789, None, 3 * 10**15)
    assert (listed_length("far", "m"), listed_length("far", "other")) == (77, None)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"litellm_provider": "near"}, "litellm lists no price per token for far/m"),
        ({"input_cost_per_token": None}, "litellm lists no price per token for far/m"),
        ({"input_cost_per_token_above_200k_tokens": 3e-07}, "depends on the length of the prompt"),
        ({"cache_read_input_token_cost_above_272k_tokens": 3e-07}, "depends on the length of the prompt"),
        ({"output_cost_per_reasoning_token": 9e-07}, "another price for the reasoning of far/m"),
        ({"input_cost_per_token": 1e-17}, "finer than a nano-dollar"),
        ({"output_cost_per_token": -1}, "not a finite amount"),
    ],
)
def test_what_three_prices_do_not_say_is_refused(
    listed: Callable[[str], int], more: dict[str, object], said: str
) -> None:
    entry = {name: value for name, value in {**ENTRY, **more}.items() if value is not None}
    listed(json.dumps({"m": entry}))
    with pytest.raises(ValueError, match=said):
        listed_price("far", "m")


def test_without_litellm_nothing_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prices, "_listed", prices._listed.__wrapped__)
    monkeypatch.setattr(prices.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ValueError, match="litellm lists no price"):
        listed_price("openai", "gpt-4o-mini")
