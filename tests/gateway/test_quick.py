# SPDX-License-Identifier: Apache-2.0
"""The short way of reading a request has no meaning of its own: whatever it takes, the long way takes alike."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.errors import InvalidRequest
from contract.settings import GatewaySettings
from gateway.asked import Asked
from gateway.fields import parse_body, parse_chat
from gateway.quick import usual_chat

SETTINGS = GatewaySettings(max_completion_tokens=100, max_choices=4, max_messages=3)
NUMBERS = st.sampled_from([-3, -2, -1.5, 0, 0.0, 1, 1.0, 2, 2.5, 4, 5, 100, 101, 2**63 - 1, 2**63, -(2**63) - 1])
ODD: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), NUMBERS, st.text(max_size=3), st.just("x" * 65), st.just("x" * 513),
    st.lists(NUMBERS, max_size=2), st.dictionaries(st.text(max_size=2), st.text(max_size=2), max_size=2),
)  # fmt: skip
MESSAGE = st.one_of(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["system", "developer", "user", "assistant", "tool", "nobody"]),
            "content": st.text(max_size=5),
        }
    ),
    st.fixed_dictionaries({"role": st.just("user"), "content": ODD}, optional={"name": ODD, "x": ODD}),
    ODD,
)
STRINGS = st.lists(st.text(max_size=2), max_size=18)
FIELDS = {
    "frequency_penalty": NUMBERS, "max_completion_tokens": NUMBERS, "max_tokens": NUMBERS, "n": NUMBERS,
    "presence_penalty": NUMBERS, "seed": NUMBERS, "temperature": NUMBERS, "top_p": NUMBERS,
    "stop": st.text(max_size=3) | STRINGS, "stream": st.booleans(),
    "stream_options": st.fixed_dictionaries({}, optional={"include_usage": st.booleans() | ODD, "x": ODD}),
    "user": st.text(max_size=3), "store": st.booleans(),
    "metadata": st.dictionaries(st.text(max_size=2) | st.just("k" * 65), st.text(max_size=2) | ODD, max_size=18),
}  # fmt: skip
BODIES = st.fixed_dictionaries(
    {},
    optional={
        "model": st.sampled_from(["m", "", "x" * 256, "x" * 257]) | ODD,
        "messages": st.lists(MESSAGE, max_size=4) | ODD,
        "top_k": ODD, "logprobs": ODD, "nonsense": ODD,
        **{name: values | ODD for name, values in FIELDS.items()},
    },
)  # fmt: skip
WHOLE = {
    name: NUMBERS.filter(lambda number: not isinstance(number, float))
    for name in ("max_completion_tokens", "max_tokens", "n", "seed")
}
"""Written as 2.0, which is allowed, it is not usual."""
USUAL = st.fixed_dictionaries(
    {"model": st.just("m"), "messages": st.just([{"role": "user", "content": "x"}])}, optional=FIELDS | WHOLE
)


def meaning(request: Asked) -> tuple[Any, ...]:
    return (
        request.model, request.n, orjson.loads(request.prompt), orjson.loads(request.parameters), request.stream,
        request.include_usage, request.wants_logprobs, request.bounded, request.user, request.metadata, request.store,
    )  # fmt: skip


VALUES: list[Any] = [
    None, True, False, -(2**63) - 1, -(2**63), -3, -2, -1, 0, 0.0, 0.5, 1, 1.0, 2, 2.0, 2.5, 4, 5, 100, 101, 2**63 - 1,
    2**63, 1e300, "", "x", "x" * 65, "x" * 513, [], ["x"], [1], ["x"] * 17, {}, {"x": "y"}, {"k" * 65: "y"}, {"x": 1},
    {"include_usage": True}, {"include_usage": None}, {"include_obfuscation": True},
]  # fmt: skip


@pytest.mark.parametrize("field", [*FIELDS, "model", "messages", "top_k", "logprobs"])
@pytest.mark.parametrize("streamed", [False, True])
def test_every_field_at_every_edge(field: str, streamed: bool) -> None:
    for value in VALUES:
        document = {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": streamed, field: value}
        body = json.dumps(document).encode()
        short = usual_chat(body, SETTINGS)
        try:
            long = parse_chat(parse_body(body), SETTINGS)
        except InvalidRequest:
            assert short is None, value
        else:
            assert short is None or meaning(short) == meaning(long), value


@given(BODIES | USUAL)
def test_what_the_short_way_takes_the_long_way_takes_alike(document: dict[str, Any]) -> None:
    body = orjson.dumps(document, option=orjson.OPT_NON_STR_KEYS) if _fits(document) else None
    if body is None:
        return
    short = usual_chat(body, SETTINGS)
    if short is not None:
        assert meaning(short) == meaning(parse_chat(parse_body(body), SETTINGS))


@given(USUAL)
def test_the_usual_request_goes_the_short_way(document: dict[str, Any]) -> None:
    if not _fits(document):
        return
    body = orjson.dumps(document)
    try:
        parse_chat(parse_body(body), SETTINGS)
    except InvalidRequest:
        assert usual_chat(body, SETTINGS) is None
    else:
        assert usual_chat(body, SETTINGS) is not None


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"{", b'{"model":"m","messages":[{"role":"user","content":"\\ud800"}]}', b'{"\xff":1}',
        b'{"model":"m","messages":[{"role":"user","content":"\xff"}]}', b'{"metadata":' + b'{"a":' * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_request_goes_the_long_way(body: bytes) -> None:
    assert usual_chat(body, SETTINGS) is None


def _fits(document: Any) -> bool:
    """Whether orjson writes it: its integers have 64 bits."""
    try:
        orjson.dumps(document)
    except TypeError:
        return False
    return True
