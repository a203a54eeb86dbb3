# SPDX-License-Identifier: Apache-2.0
import itertools
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.sse import Splitter, data_of
from gateway.usage import Meter, Usage


def metered(*documents: dict[str, Any], payload: bool = True) -> Meter:
    meter = Meter(payload=payload)
    for document in documents:
        meter.read(json.dumps(document).encode())
    return meter


def chunk(text: str | None, index: int = 0, usage: tuple[int, int] | None = None, **choice: Any) -> dict[str, Any]:
    delta = {} if text is None else {"content": text}
    document: dict[str, Any] = {"choices": [{"index": index, "delta": delta, "finish_reason": None, **choice}]}
    return document if usage is None else {**document, **told(*usage)}


def told(prompt: int, completion: int, **details: Any) -> dict[str, Any]:
    return {"usage": {"prompt_tokens": prompt, "completion_tokens": completion, **details}}


def test_usage_on_a_chunk_of_its_own() -> None:
    meter = metered(chunk("a"), chunk("b"), {"choices": [], **told(5, 2, prompt_tokens_details={"cached_tokens": 4})})
    assert meter.usage(99) == Usage(5, 2, 4, None, "reported")


def test_usage_on_a_last_chunk_that_has_choices_is_the_whole() -> None:
    last = {**chunk("c", index=1), **told(5, 6, prompt_tokens_details={"cached_tokens": 3})}
    assert metered(chunk("a"), chunk("b"), last).usage(99) == Usage(5, 6, 3, None, "reported")


def test_running_usage_of_one_choice_is_its_last_count() -> None:
    meter = metered(chunk("", usage=(5, 0)), chunk("a", usage=(5, 1)), chunk("b", usage=(5, 2)))
    assert meter.usage(99) == Usage(5, 2, None, None, "reported")


def test_running_usage_of_several_choices_is_added_up() -> None:
    meter = metered(
        chunk("", 0, (5, 0)), chunk("", 1, (5, 0)), chunk("a", 0, (5, 1)), chunk("a", 1, (5, 1)), chunk("b", 1, (5, 2))
    )
    assert meter.usage(99, n=2) == Usage(5, 3, None, None, "reported")


def test_running_usage_of_several_prompts_is_added_up_by_prompt() -> None:
    counts = [(0, 5), (1, 5), (2, 8), (3, 8)]  # two prompts, two answers to each
    meter = metered(*(chunk("a", index, (prompt, 1)) for index, prompt in counts), chunk("b", 3, (8, 2)))
    assert meter.usage(99, n=2) == Usage(13, 5, None, None, "reported")


def test_the_total_at_the_end_outweighs_running_usage() -> None:
    meter = metered(chunk("a", 0, (5, 1)), chunk("a", 1, (5, 1)), {"choices": [], **told(5, 2)})
    assert meter.usage(99) == Usage(5, 2, None, None, "reported")


def test_reasoning_tokens_are_kept_apart() -> None:
    details = {"completion_tokens_details": {"reasoning_tokens": 3}}
    assert metered({"choices": [], **told(5, 7, **details)}).usage(0).reasoning == 3


def test_absent_usage_is_not_usage_of_zero() -> None:
    assert metered(chunk("a"), chunk("b")).usage(8) == Usage(2, 2, None, None, "estimated")
    assert metered(chunk("a"), {"choices": [], **told(0, 0)}).usage(8) == Usage(0, 0, None, None, "reported")
    assert metered({"choices": [], "usage": None}).usage(8).source == "estimated"


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": -1, "completion_tokens": 2},
        {"prompt_tokens": 1, "completion_tokens": -2},
        {"prompt_tokens": 1, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 5}},
    ],
)
def test_counts_that_cannot_be_true_are_as_good_as_none(usage: dict[str, Any]) -> None:
    assert metered(chunk("a"), {"choices": [], "usage": usage}).usage(8).source == "estimated"


def test_token_ids_count_where_usage_is_absent() -> None:
    meter = metered(
        {**chunk(""), "prompt_token_ids": [1, 2, 3]}, chunk("a", token_ids=[7, 8]), chunk("b", token_ids=[9])
    )
    assert meter.usage(99) == Usage(3, 3, None, None, "counted")
    assert (meter.prompt_token_ids, meter.token_ids) == ([1, 2, 3], [[7, 8, 9]])


def test_logprobs_of_the_sampled_tokens() -> None:
    meter = metered(chunk("a", logprobs={"content": [{"token": "a", "logprob": -0.5}]}), chunk("b", logprobs=None))
    assert meter.logprobs == [[-0.5]]


def test_a_streamed_answer_is_put_together() -> None:
    meter = metered(
        chunk("", delta={"role": "assistant", "content": ""}),
        chunk(None, delta={"reasoning": "hm"}),
        chunk("He", 1),
        chunk("llo", 1, finish_reason="length"),
        chunk(None, delta={"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "f", "arguments": ""}}]}),
        chunk(None, delta={"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]}),
        chunk(None, delta={"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]}, finish_reason="tool_calls"),
    )
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    assert json.loads(meter.choices) == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "", "reasoning": "hm", "tool_calls": [call]},
            "finish_reason": "tool_calls",
        },
        {"index": 1, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "length"},
    ]
    assert meter.finish_reasons == ["tool_calls", "length"]


def test_a_whole_answer() -> None:
    message = {"role": "assistant", "content": "hi", "refusal": None}
    meter = metered({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], **told(5, 1)})
    assert json.loads(meter.choices) == [{"index": 0, "message": message, "finish_reason": "stop"}]
    assert meter.usage(0) == Usage(5, 1, None, None, "reported")


def test_with_the_payload_off_no_text_is_held() -> None:
    meter = metered(chunk("secret"), chunk("words"), payload=False)
    assert "secret" not in repr([getattr(meter, name) for name in Meter.__slots__])
    assert meter.usage(4).completion == 2


@pytest.mark.parametrize("document", [{"choices": 5}, {"choices": [{"index": "x"}]}, {"choices": [], "usage": "lots"}])
def test_what_is_no_answer_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        metered(document)


PIECES = [
    chunk("", 0, (5, 0)), chunk("", 1, (5, 0)), chunk("é", 0, (5, 1)), chunk("b", 1, (5, 1)),
    chunk("c", 0, (5, 2), finish_reason="stop"), chunk("d", 1, (5, 2), finish_reason="length"),
    {"choices": [], **told(5, 4)},
]  # fmt: skip
STREAM = b"".join(b"data: " + json.dumps(piece, ensure_ascii=False).encode() + b"\n\n" for piece in PIECES)


@given(st.lists(st.integers(0, len(STREAM)), max_size=40))
def test_any_cut_of_the_byte_stream_gives_the_same_result(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    splitter, meter = Splitter(), Meter()
    for start, end in itertools.pairwise(edges):
        for event in splitter.feed(STREAM[start:end]):
            data = data_of(event)
            assert data is not None
            meter.read(data)
    whole = metered(*PIECES)
    assert (meter.usage(0), meter.choices, meter.finish_reasons) == (
        whole.usage(0), whole.choices, whole.finish_reasons,
    )  # fmt: skip


def test_the_prompt_of_several_is_not_told_and_an_echo_is_not_sampled() -> None:
    def answer(index: int, prompt: list[int]) -> dict[str, Any]:
        logprobs = {"token_logprobs": [None, -3.0, -1.0, -2.0]}  # the first two of an echoed prompt
        return {"index": index, "text": "x", "token_ids": [7, 8], "prompt_token_ids": prompt, "logprobs": logprobs}

    one = metered({"choices": [answer(0, [1, 2]), answer(1, [1, 2])]})
    assert (one.prompt_token_ids, one.logprobs) == ([1, 2], [[-1.0, -2.0]] * 2)
    assert metered({"choices": [answer(0, [1, 2]), answer(1, [3])]}).prompt_token_ids is None
