# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.ids import new_invocation_id
from judge.sampler import draw, is_sampled

IDS = [f"inv_{number:044x}" for number in range(20_000)]


@given(st.text())
def test_rate_0_takes_none_and_rate_1_takes_all(invocation: str) -> None:
    assert not is_sampled(invocation, 0.0)
    assert is_sampled(invocation, 1.0)


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
def test_the_share_taken_is_the_rate_even_of_ids_that_count_up(rate: float) -> None:
    taken = sum(is_sampled(invocation, rate) for invocation in IDS)
    deviation = (len(IDS) * rate * (1 - rate)) ** 0.5
    assert abs(taken - len(IDS) * rate) < 4 * deviation


def test_the_draw_is_even_over_its_whole_range() -> None:
    cells = [0] * 20
    for invocation in IDS:
        cells[draw(invocation) * 20 // 2**64] += 1
    expected = len(IDS) / 20
    chi_square = sum((cell - expected) ** 2 / expected for cell in cells)
    assert chi_square < 43.8  # 19 degrees of freedom, p = 0.001


def test_the_draw_never_changes_between_releases() -> None:
    assert draw("inv_1") == 13499169984142940936
    assert draw("inv_2") == 10185651093947281868


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_higher_rate_takes_all_that_a_lower_one_does(one: float, other: float) -> None:
    invocation = new_invocation_id("default", b"s" * 32)
    low, high = sorted((one, other))
    assert is_sampled(invocation, low) <= is_sampled(invocation, high)
