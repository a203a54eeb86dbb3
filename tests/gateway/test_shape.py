# SPDX-License-Identifier: Apache-2.0
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.shape import Shape
from gateway.usage import Meter, Usage

CHOICE = {"index": 0, "delta": {"content": "x"}, "logprobs": {"content": []}, "token_ids": [1]}
USAGE = {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}


def document(**extra: Any) -> dict[str, Any]:
    return {"id": "chatcmpl-engine", "model": "v@1", "choices": [CHOICE], **extra}


def cut(shape: Shape, chunk: dict[str, Any]) -> dict[str, Any] | None:
    data = json.dumps(chunk).encode()
    result = shape.chunk(data, Meter().read(data))
    return None if result is None else dict(json.loads(result))


def test_the_public_name_and_our_id_come_back() -> None:
    data = json.dumps(document(usage=USAGE)).encode()
    whole = json.loads(Shape("public", "chatcmpl-1").whole(data, Meter().read(data)))
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


NESTED: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.integers(0, 9) | st.sampled_from(["v@1", ',"model":"v@1"', ',"usage":{}}', '"', "{"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["model", "usage", "x"]), inner),
    max_leaves=6,
)


@given(
    members=st.permutations(["id", "object", "model", "choices", "usage", "extra"]),
    extra=NESTED,
    text=st.sampled_from(["x", ',"model":"v@1"', ',"usage":5}', "\u00e9"]),
    separators=st.sampled_from([(",", ":"), (", ", ": ")]),
    include_usage=st.booleans(),
    has_choices=st.booleans(),
)
def test_however_an_engine_writes_its_answer_the_same_members_reach_the_client(
    members: list[str], extra: Any, text: str, separators: tuple[str, str], include_usage: bool, has_choices: bool
) -> None:
    choices = [{**CHOICE, "delta": {"content": text}}] if has_choices else []
    values = {
        "id": "i", "object": text, "model": "v@1", "choices": choices, "usage": USAGE, "extra": extra,
    }  # fmt: skip
    written = {name: values[name] for name in members}
    data = json.dumps(written, separators=separators, ensure_ascii=False).encode()
    read = Meter().read(data)
    shown = Shape("public", "i", include_usage=include_usage).chunk(data, read)
    if not has_choices and not include_usage:
        assert shown is None
        return
    wanted = {**written, "model": "public"}
    if has_choices:
        del wanted["usage"]
    assert shown is not None
    assert list(json.loads(shown).items()) == list(wanted.items())
    whole = Shape("public", "i").whole(data, read)
    assert list(json.loads(whole).items()) == list({**written, "model": "public"}.items())


def test_an_answer_as_engines_write_it_keeps_every_other_byte() -> None:
    head = b'{"id":"i","object":"chat.completion.chunk","created":1,"model":"v@1","choices":'
    choices = b'[{"index":0,"delta":{"content":",\\"model\\":\\"v@1\\""},"logprobs":{"x":1.10e-7}}]'
    data = head + choices + b',"usage":{"prompt_tokens":1,"completion_tokens":2}}'
    shown = Shape("public", "i").chunk(data, Meter().read(data))
    assert shown == head.replace(b"v@1", b"public") + choices + b"}"
