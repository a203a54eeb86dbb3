# SPDX-License-Identifier: Apache-2.0
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.splice import elements, joined, joined_array, members, raw

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), VALUES), st.sampled_from([(",", ":"), (", ", ": ")]))
def test_every_value_keeps_its_bytes(document: dict[str, Any], separators: tuple[str, str]) -> None:
    written = json.dumps(document, separators=separators).encode()
    parts = members(written)
    assert {name: bytes(value) for name, value in parts.items()} == {
        name: json.dumps(value, separators=separators).encode() for name, value in document.items()
    }
    assert json.loads(joined(parts)) == document


def test_a_compact_document_comes_back_byte_for_byte() -> None:
    written = b'{"id":"x","n":1.10e-7,"s":"\\u00e9\\/\xc3\xa9","choices":[{"a":0.30000000000000004}]}'
    assert joined(members(written)) == written
    assert bytes(joined_array(elements(members(written)["choices"]))) == b'[{"a":0.30000000000000004}]'


def test_a_value_that_looks_like_the_replaced_one_is_left_alone() -> None:
    written = b'{"model":"v","choices":[{"delta":{"content":"\\"model\\":\\"v\\""}}]}'
    cut = joined({**members(written), "model": raw("public")})
    assert cut == written.replace(b'"model":"v"', b'"model":"public"', 1)


@pytest.mark.parametrize("document", [b"", b"[]", b"{", b'{"a":}', b"null"])
def test_what_is_no_object_is_refused(document: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        members(document)
