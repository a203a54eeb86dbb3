# SPDX-License-Identifier: Apache-2.0
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.money import MOST_USD, NANO, format_usd, parse_usd, whole_nanos
from contract.prices import PriceBook, PriceVersion

TOKENS = st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**13)), max_size=6)


@given(st.integers(0, MOST_USD * NANO))
def test_what_is_written_with_nine_decimals_is_read_exactly(nano: int) -> None:
    assert parse_usd(f"{nano // NANO}.{nano % NANO:09d}") == nano


@given(st.integers(0, 999_999).map(lambda micro: micro / 1_000_000))
def test_a_float_is_the_number_a_person_wrote(amount: float) -> None:
    assert parse_usd(amount) == Fraction(Decimal(str(amount))) * NANO


@pytest.mark.parametrize("text", [1e300, "1e999999999", "1000000000.000000001"])
def test_an_amount_that_no_database_could_hold_is_refused(text: str | float) -> None:
    assert parse_usd(MOST_USD) < 2**63
    with pytest.raises(ValueError, match="is over the largest amount, 1000000000 USD"):
        parse_usd(text)


@pytest.mark.parametrize("text", ["-0.01", "NaN", "Infinity", "-Infinity", "a dollar", "", "0.0000000001", "1e-10"])
def test_what_is_no_amount_is_refused_by_its_text(text: str) -> None:
    with pytest.raises(ValueError, match="amount|finer") as refused:
        parse_usd(text)
    assert repr(text) in str(refused.value)


@given(TOKENS)
def test_a_cost_is_the_exact_sum_rounded_once_half_to_even(priced: list[tuple[int, int]]) -> None:
    exact = sum((Fraction(tokens * price, 1_000_000) for tokens, price in priced), Fraction(0))
    assert whole_nanos(sum(tokens * price for tokens, price in priced)) == round(exact)  # Fraction rounds half to even


@pytest.mark.parametrize(("tokens", "cost"), [(1, 0), (3, 2), (5, 2), (7, 4)])
def test_half_a_nano_dollar_goes_to_the_even_neighbour(tokens: int, cost: int) -> None:
    assert whole_nanos(tokens * 500_000) == cost


@given(st.integers(-(10**18), 10**18), st.integers(0, 9))
def test_an_amount_is_printed_rounded_half_to_even(nano: int, decimals: int) -> None:
    wanted = (Decimal(nano) / NANO).quantize(Decimal(1).scaleb(-decimals), rounding=ROUND_HALF_EVEN)
    printed = format_usd(nano, decimals)
    assert Decimal(printed.replace("$", "")) == wanted
    assert printed.startswith("-$") == (wanted < 0)
    assert "E" not in printed


def version(starts: int, price: int, model: str = "m") -> PriceVersion:
    return PriceVersion(f"price_{starts}", model, price, price // 2, price * 2, starts)


@pytest.mark.parametrize(("moment", "price"), [(0, 10), (99, 10), (100, 10), (199, 10), (200, 20), (10**20, 20)])
def test_the_price_of_a_moment_is_the_last_that_started(moment: int, price: int) -> None:
    book = PriceBook([version(200, 20), version(100, 10), version(150, 99, "other")])
    assert book.at("m", moment).input == price


def test_a_model_without_a_price_is_named() -> None:
    with pytest.raises(KeyError, match="no price for model x"):
        PriceBook([]).at("x", 0)


def test_cached_tokens_are_part_of_the_prompt_and_have_their_own_rate() -> None:
    assert version(0, 1_000_000).cost(prompt_tokens=10, cached_tokens=4, completion_tokens=3) == 6 * 1 + 2 + 3 * 2


@pytest.mark.parametrize("usage", [(-1, 0, 0), (1, -1, 0), (1, 0, -1), (3, 4, 0)])
def test_impossible_usage_has_no_cost(usage: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="impossible usage"):
        version(0, 1).cost(*usage)
