# SPDX-License-Identifier: Apache-2.0
import json
from typing import Any

from gateway.shape import Shape
from gateway.splice import members
from gateway.usage import Usage

CHOICE = {"index": 0, "delta": {"content": "x"}, "logprobs": {"content": []}, "token_ids": [1]}
USAGE = {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}


def document(**extra: Any) -> dict[str, Any]:
    return {"id": "chatcmpl-engine", "model": "v@1", "choices": [CHOICE], **extra}


def cut(shape: Shape, chunk: dict[str, Any]) -> dict[str, Any] | None:
    result = shape.chunk(members(json.dumps(chunk).encode()))
    return None if result is None else dict(json.loads(result))


def test_the_public_name_and_our_id_come_back() -> None:
    whole = json.loads(Shape("public", "chatcmpl-1").whole(members(json.dumps(document(usage=USAGE)).encode())))
    assert whole == document(usage=USAGE) | {"id": "chatcmpl-1", "model": "public"}


def test_running_usage_is_cut_out() -> None:
    assert "usage" not in (cut(Shape("m", "i", include_usage=True), document(usage=USAGE)) or {})


def test_the_usage_chunk_is_for_those_who_asked() -> None:
    last = document(choices=[], usage=USAGE)
    assert cut(Shape("m", "i"), last) is None
    told = cut(Shape("m", "i", include_usage=True), last)
    assert told is not None
    assert (told["choices"], told["usage"]) == ([], USAGE)


def test_a_client_that_asked_gets_its_usage_chunk_however_the_engine_told() -> None:
    shape = Shape("m", "i", include_usage=True)
    cut(shape, document(usage=USAGE))
    missing = shape.missing_usage(Usage(5, 1, 2, None, "reported"))
    assert missing is not None
    told = json.loads(missing)
    assert (told["id"], told["model"], told["choices"]) == ("i", "m", [])
    assert told["usage"] == {**USAGE, "prompt_tokens_details": {"cached_tokens": 2}}


def test_usage_is_told_once_and_never_guessed() -> None:
    shape = Shape("m", "i", include_usage=True)
    cut(shape, document())
    assert shape.missing_usage(Usage(5, 1, None, None, "estimated")) is None
    cut(shape, document(choices=[], usage=USAGE))
    assert shape.missing_usage(Usage(5, 1, None, None, "reported")) is None


def test_what_only_we_asked_for_is_cut_out() -> None:
    shown = cut(Shape("m", "i", hide_tokens=True, hide_logprobs=True), document(prompt_token_ids=[1, 2]))
    assert shown == {"id": "i", "model": "m", "choices": [{"index": 0, "delta": {"content": "x"}, "logprobs": None}]}


def test_logprobs_stay_for_a_client_that_asked_for_them() -> None:
    shown = cut(Shape("m", "i", hide_tokens=True), document())
    assert shown is not None
    assert shown["choices"] == [{"index": 0, "delta": {"content": "x"}, "logprobs": {"content": []}}]
