# SPDX-License-Identifier: Apache-2.0
"""What litellm hands over, in the words of an engine."""

from collections.abc import AsyncGenerator
from typing import Any

import orjson
import pytest

from contract.errors import EngineFailed
from gateway.providers.translation import Translation
from gateway.sse import DONE, data_of

DONE_MARK = {"text": "", "is_finished": True, "finish_reason": "stop", "usage": None, "index": 0, "tool_use": None}


def translation() -> Translation:
    return Translation("chatcmpl-inv_1", "base", {"end": "stop", "stop": "stop"}.__getitem__)


async def translated(*chunks: dict[str, Any]) -> list[Any]:
    async def given() -> AsyncGenerator[Any]:
        for chunk in chunks:
            yield chunk

    found: list[bytes] = []
    async for piece in translation().events(given()):
        found += [data_of(event + b"\n\n") or b"" for event in piece.split(b"\n\n")[:-1]]
    assert found.pop() == DONE
    return [orjson.loads(data) for data in found]


def piece(text: str | None, end: str | None = None, **more: Any) -> dict[str, Any]:
    return {"created": 5, "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": end}], **more}


async def test_only_what_the_schema_has_is_taken_over() -> None:
    (first, last) = await translated(
        {
            "id": "theirs",
            "created": 5,
            "model": "https://host/secret",
            "citations": ["x"],
            "choices": [{"index": 0, "token_ids": [1], "delta": {"content": "a", "audio": None, "thinking": "x"}}],
        },
        piece("", "end", provider_specific_fields={"key": "x"}),
    )
    assert first == {
        "id": "chatcmpl-inv_1",
        "object": "chat.completion.chunk",
        "created": 5,
        "model": "base",
        "choices": [
            {"index": 0, "delta": {"role": "assistant", "content": "a"}, "logprobs": None, "finish_reason": None}
        ],
    }
    assert last["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}]


async def test_counts_are_running_totals_of_which_none_is_forgotten() -> None:
    begun = {"prompt_tokens": 7, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 2}}
    ended = {"prompt_tokens": 0, "completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 4}}
    *_, last = await translated(piece("a", usage=begun), piece(None, "end", usage=ended))
    assert last["choices"] == []
    assert last["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 9,
        "total_tokens": 16,
        "prompt_tokens_details": {"cached_tokens": 2},
        "completion_tokens_details": {"reasoning_tokens": 4},
    }


async def test_litellms_other_kind_of_chunk_is_understood() -> None:
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    told = {"prompt_tokens": 3, "completion_tokens": 2}
    text, tool, more, last, usage = await translated(
        {"text": "a", "is_finished": False, "finish_reason": "", "index": 0},
        {"text": "", "is_finished": False, "finish_reason": "", "index": 0, "tool_use": call},
        {"text": "b", "is_finished": True, "finish_reason": "end", "index": 0, "usage": told},
    )
    assert text["choices"][0]["delta"] == {"role": "assistant", "content": "a"}
    assert tool["choices"][0]["delta"] == {"tool_calls": [call]}
    assert (more["choices"][0]["delta"], last["choices"][0]["finish_reason"]) == ({"content": "b"}, "stop")
    assert usage["usage"]["total_tokens"] == 5


async def test_a_reason_that_comes_with_every_chunk_is_told_once_and_is_the_last() -> None:
    one, two, last = await translated(piece("a", "stop"), piece("b", "stop"), piece(None, "end"))
    assert [each["choices"][0]["finish_reason"] for each in (one, two, last)] == [None, None, "stop"]
    assert [each["choices"][0]["delta"].get("content") for each in (one, two, last)] == ["a", "b", None]


async def test_done_without_a_reason_is_an_end_and_says_no_reason() -> None:
    (only,) = await translated(piece("a"), DONE_MARK)
    assert only["choices"][0]["finish_reason"] is None


@pytest.mark.parametrize(
    ("chunks", "said"),
    [
        ([], "without saying that it was done"),
        ([DONE_MARK], "without saying that it was done"),
        ([piece("a")], "without saying that it was done"),
        ([piece("a"), DONE_MARK, piece("b", "end")], "went on after its end"),
        ([{"something": "else"}], "of a kind that is not understood"),
    ],
)
async def test_what_is_no_whole_answer_is_an_error(chunks: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(EngineFailed, match=said):
        await translated(*chunks)
