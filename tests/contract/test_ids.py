# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.ids import RESPONSE_PREFIXES, invocation_of, is_own_invocation, new_id, new_invocation_id, uuid7

SECRET = b"s" * 32


def test_an_id_belongs_to_its_project_and_installation_alone() -> None:
    identifier = new_invocation_id("a", SECRET)
    assert is_own_invocation(identifier, "a", SECRET)
    assert not is_own_invocation(identifier, "b", SECRET)
    assert not is_own_invocation(identifier, "a", b"t" * 32)


@given(st.integers(4, 47), st.sampled_from("0123456789abcdefgz-_ "))
def test_an_id_with_any_character_changed_is_forged(place: int, character: str) -> None:
    identifier = new_invocation_id("a", SECRET)
    changed = identifier[:place] + character + identifier[place + 1 :]
    assert is_own_invocation(changed, "a", SECRET) == (changed == identifier)


@given(st.text())
def test_no_text_is_taken_for_an_id_and_none_makes_it_fail(text: str) -> None:
    assert not is_own_invocation(text, "a", SECRET)
    assert not is_own_invocation("inv_" + text, "a", SECRET)


@pytest.mark.parametrize("identifier", ["inv_" + "é" * 44, "inv_" + "0" * 43, "inv_" + "0" * 45, "INV_" + "0" * 44])
def test_ids_of_the_wrong_shape_are_refused(identifier: str) -> None:
    assert not is_own_invocation(identifier, "a", SECRET)


@pytest.mark.parametrize("prefix", ["", *RESPONSE_PREFIXES])
def test_the_invocation_is_found_in_every_response_id(prefix: str) -> None:
    assert invocation_of(prefix + "inv_1") == "inv_1"


@given(st.integers(0, 2**48 - 1))
def test_uuids_are_version_7_and_carry_their_millisecond(milliseconds: int) -> None:
    value = uuid7(lambda: milliseconds * 1_000_000, lambda count: b"\xff" * count)
    assert (value.version, value.variant) == (7, "specified in RFC 4122")
    assert value.int >> 80 == milliseconds


@given(st.lists(st.integers(0, 2**47), min_size=2, unique=True))
def test_ids_sort_by_their_time(moments: list[int]) -> None:
    ids = [new_id("key", lambda moment=moment: moment * 1_000_000) for moment in moments]
    assert sorted(ids) == [ids[moments.index(moment)] for moment in sorted(moments)]
