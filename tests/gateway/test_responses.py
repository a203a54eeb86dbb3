# SPDX-License-Identifier: Apache-2.0
"""What becomes of each field and each item of a request for a response."""

import itertools
import typing
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import (
    EasyInputMessageParam,
    FunctionToolParam,
    ResponseFunctionToolCallParam,
    ResponseInputItemParam,
    ResponseInputTextContentParam,
    ResponseInputTextParam,
    ResponseOutputMessageParam,
    ResponseOutputRefusalParam,
    ResponseOutputTextParam,
    ResponseReasoningItemParam,
    ResponseTextConfigParam,
    ToolParam,
    response_create_params,
    response_includable,
)
from openai.types.responses.response_input_item_param import FunctionCallOutput, Message
from openai.types.shared_params import Reasoning

from contract.errors import InvalidRequest, UnknownParameter, UnsupportedParameter
from contract.settings import GatewaySettings
from gateway.asked import CHAT, Asked
from gateway.items import _ITEMS, _TEXT_PARTS
from gateway.response_values import _INCLUDED, _UNUSED
from gateway.responses import ACCEPTED, APPLIED, EXTRAS, KEPT, OWN, REFUSED, parse_response
from gateway.values import FUNCTION

BOUNDS = GatewaySettings(max_completion_tokens=100, max_messages=9)
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True, "description": "d"}
SCHEMA = {"type": "json_schema", "name": "s", "schema": {"type": "object"}, "strict": True}


def parsed(**fields: Any) -> Asked:
    return parse_response({"model": "m", "input": "hi", **fields}, BOUNDS)


def chat(**fields: Any) -> dict[str, Any]:
    """What goes to the engine, without what all requests have."""
    body: dict[str, Any] = orjson.loads(parsed(**fields).upstream("v", "s", tokens=False))
    return {name: body[name] for name in body if name not in ("model", "cache_salt", "messages")}


def messages(*items: Any, **fields: Any) -> Any:
    return orjson.loads(parsed(input=list(items), **fields).prompt)


def refusal(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parsed(**fields)
    assert caught.value.param is not None and caught.value.param in caught.value.message
    return caught.value


# --- fields


def test_every_field_of_the_openai_schema_has_one_fate() -> None:
    known = [set(fate) for fate in (APPLIED, KEPT, ACCEPTED, REFUSED, OWN)]
    schema = set(typing.get_type_hints(response_create_params.ResponseCreateParamsStreaming))
    assert set().union(*known) == schema
    assert sum(map(len, known)) == len(schema)
    assert not schema & set(EXTRAS)


def test_every_member_of_the_openai_schemas_is_known() -> None:
    assert set(typing.get_type_hints(FunctionToolParam)) - {"type"} == set(FUNCTION) | set(_UNUSED)
    for name in typing.get_type_hints(Reasoning):
        assert not isinstance(refusal(reasoning={name: 5}), UnknownParameter)
    for name in typing.get_type_hints(ResponseTextConfigParam):
        assert not isinstance(refusal(text={name: 5}), UnknownParameter)
    for name in typing.get_type_hints(response_create_params.StreamOptions):
        parsed(stream=True, stream_options={name: True})
    assert set(_INCLUDED) < set(typing.get_args(response_includable.ResponseIncludable))


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({"max_output_tokens": 7}, {"max_completion_tokens": 7}),
        ({"temperature": 0.5, "top_p": 0.5, "top_k": 3}, {"temperature": 0.5, "top_p": 0.5, "top_k": 3}),
        ({"parallel_tool_calls": False}, {"parallel_tool_calls": False}),
        ({"reasoning": {"effort": "low", "summary": "auto"}}, {"reasoning_effort": "low"}),
        ({"text": {"format": {"type": "text"}, "verbosity": "medium"}}, {"response_format": {"type": "text"}}),
        ({"text": {"format": {"type": "json_object"}}}, {"response_format": {"type": "json_object"}}),
        (
            {"text": {"format": SCHEMA}},
            {
                "response_format": {
                    "type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}, "strict": True},
                }
            },
        ),
        (
            {"tools": [{**TOOL, "defer_loading": False}], "tool_choice": {"type": "function", "name": "f"}},
            {
                "tools": [{"type": "function", "function": {name: TOOL[name] for name in TOOL if name != "type"}}],
                "tool_choice": {"type": "function", "function": {"name": "f"}},
            },
        ),
        ({"tools": [], "tool_choice": "auto"}, {}),
        (
            {"include": ["message.output_text.logprobs", "reasoning.encrypted_content"], "top_logprobs": 3},
            {"logprobs": True, "top_logprobs": 3},
        ),
        ({"include": ["reasoning.encrypted_content"], "top_logprobs": 0}, {}),
        ({"store": True, "background": False, "truncation": "disabled", "service_tier": "auto"}, {}),
        ({"max_tool_calls": 3, "prompt_cache_key": "k", "user": "u", "metadata": {"a": "b"}}, {}),
    ],
)  # fmt: skip
def test_an_engine_is_asked_for_a_chat_completion(fields: dict[str, Any], sent: dict[str, Any]) -> None:
    assert chat(**fields) == sent
    assert parsed(**fields).endpoint is CHAT


def test_an_answer_that_is_not_bounded_is_bounded_by_the_gateway() -> None:
    assert not parsed().bounded
    assert parsed(max_output_tokens=5).bounded


def test_the_record_gets_user_and_metadata() -> None:
    request = parsed(user="u", safety_identifier="s", metadata={"conversation": "c"})
    assert (request.user, request.conversation) == ("u", "c")
    assert parsed(safety_identifier="s").user == "s"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"), ({"conversation": "c"}, "conversation"),
        ({"background": True}, "background"), ({"prompt": {"id": "p"}}, "prompt"),
        ({"truncation": "auto"}, "truncation"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"), ({"tools": [TOOL, {"type": "mcp"}]}, "tools[1].type"),
        ({"tools": [{"type": "file_search", "vector_store_ids": []}]}, "tools[0].type"),
        ({"tools": [{**TOOL, "async": True}]}, "tools[0].async"),
        ({"tools": [{**TOOL, "output_schema": {}}]}, "tools[0].output_schema"),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.type"),
        ({"include": ["file_search_call.results"]}, "include[0]"), ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"reasoning": {"mode": "pro"}}, "reasoning.mode"), ({"service_tier": "flex"}, "service_tier"),
        *(({name: {"x": 1}}, name) for name in REFUSED),
    ],
)  # fmt: skip
def test_what_no_engine_here_can_do_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    error = refusal(**fields)
    assert isinstance(error, UnsupportedParameter)
    assert error.param == param


@pytest.mark.parametrize("schema", typing.get_args(ToolParam))
def test_every_built_in_tool_is_refused_by_name(schema: Any) -> None:
    for name in typing.get_args(typing.get_type_hints(schema)["type"]):
        if name != "function":
            assert refusal(tools=[{"type": name}]).param == "tools[0].type"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"), ({"input": None}, "input"), ({"input": []}, "input"), ({"input": 5}, "input"),
        ({"input": [{"role": "user", "content": "x"}] * 10}, "input"), ({"input": ["x"]}, "input[0]"),
        ({"input": [{"role": "king", "content": "x"}]}, "input[0].role"), ({"input": [{}]}, "input[0].type"),
        ({"input": [{"type": {"x": 1}}]}, "input[0].type"), ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]}, "input[0].content[0].type"),
        ({"input": [{"role": "user", "content": "x", "weight": 1}]}, "input[0].weight"),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input[0].call_id"),
        ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input[0].output"),
        ({"max_output_tokens": 101}, "max_output_tokens"), ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": 3}, "temperature"), ({"instructions": ["x"]}, "instructions"), ({"stream": 1}, "stream"),
        ({"stream_options": {"include_obfuscation": True}}, "stream_options"), ({"messages": []}, "messages"),
        ({"stream": True, "stream_options": {"include_usage": True}}, "stream_options.include_usage"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"), ({"top_logprobs": 3}, "top_logprobs"),
        ({"text": {"format": {"type": "json_schema", "name": "s"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "text", "name": "s"}}}, "text.format.name"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"), ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "any"}, "tool_choice"), ({"seed": 1}, "seed"), ({"n": 2}, "n"),
        ({"reasoning": {"effort": "wild"}}, "reasoning.effort"), ({"reasoning": {"depth": 1}}, "reasoning.depth"),
    ],
)  # fmt: skip
def test_a_bad_value_is_named_with_its_field(fields: dict[str, Any], param: str) -> None:
    assert refusal(**fields).param == param


def test_null_means_absent() -> None:
    nulls = dict.fromkeys([*APPLIED, *EXTRAS, *KEPT, *ACCEPTED, *REFUSED, "stream", "stream_options"])
    assert chat(**nulls) == {}
    assert parsed(**nulls).echo == parsed().echo


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3)
    | st.sampled_from(["message", "function_call", "reasoning", "function", "user", "json_schema", "output_text"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["type", "role", "content", "name", "text", "format", "output", "call_id", "schema"]),
        inner, max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@given(st.sampled_from(sorted({*APPLIED, *KEPT, *ACCEPTED, *REFUSED, *OWN, *EXTRAS})), JSON)
def test_whatever_a_field_holds_it_is_taken_or_refused(name: str, value: Any) -> None:
    try:
        parsed(**{name: value})
    except InvalidRequest as error:
        assert error.param is not None and error.param.startswith(name)


# --- items


def test_every_member_of_the_openai_items_is_known() -> None:
    kinds: tuple[tuple[str, Any], ...] = (
        ("message", EasyInputMessageParam), ("message", Message), ("message", ResponseOutputMessageParam),
        ("function_call", ResponseFunctionToolCallParam), ("function_call_output", FunctionCallOutput),
        ("reasoning", ResponseReasoningItemParam),
    )  # fmt: skip
    for kind, schema in kinds:
        assert set(typing.get_type_hints(schema)) - {"type"} <= _ITEMS[kind], schema
    parts: tuple[Any, ...] = (ResponseInputTextParam, ResponseInputTextContentParam, ResponseOutputTextParam)
    for schema in parts:
        (kind,) = typing.get_args(typing.get_type_hints(schema)["type"])
        assert set(typing.get_type_hints(schema)) - {"type"} <= _TEXT_PARTS[kind]
    assert set(typing.get_type_hints(ResponseOutputRefusalParam)) == {"type", "refusal"}


@pytest.mark.parametrize("schema", typing.get_args(ResponseInputItemParam))
def test_every_other_item_is_refused_by_name(schema: Any) -> None:
    (kind, *_) = typing.get_args(typing.get_type_hints(schema)["type"])
    if isinstance(kind, str) and kind not in _ITEMS:
        error = refusal(input=[{"type": kind}])
        assert isinstance(error, UnsupportedParameter)
        assert error.param == "input[0].type" and kind in error.message


@pytest.mark.parametrize("kind", ["input_image", "input_file", "input_audio"])
def test_parts_that_would_make_the_engine_fetch_something_never_pass(kind: str) -> None:
    part = {"type": kind, "image_url": "http://169.254.169.254/"}
    said = {"role": "user", "content": [{"type": "input_text", "text": "x"}, part]}
    result = {"type": "function_call_output", "call_id": "c", "output": [part]}
    for item, param in ((said, "input[0].content[1].type"), (result, "input[0].output[0].type")):
        error = refusal(input=[item])
        assert isinstance(error, UnsupportedParameter)
        assert error.param == param


def text(*texts: str, kind: str = "input_text") -> list[dict[str, str]]:
    return [{"type": kind, "text": each} for each in texts]


def test_a_text_is_a_message_of_the_user() -> None:
    assert orjson.loads(parsed(input="x").prompt) == [{"role": "user", "content": "x"}]
    assert orjson.loads(parsed(input="x", instructions="be").prompt) == [
        {"role": "system", "content": "be"}, {"role": "user", "content": "x"},
    ]  # fmt: skip


def test_messages_in_every_spelling() -> None:
    answer = {
        "type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "phase": None,
        "content": [{"type": "output_text", "text": "yes", "annotations": [], "logprobs": []}],
    }  # fmt: skip
    assert messages(
        {"role": "developer", "content": "be"}, {"type": "message", "role": "user", "content": text("a")},
        answer, {"role": "user", "content": text("b", "c")},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
    ) == [
        {"role": "developer", "content": "be"}, {"role": "user", "content": "a"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": text("b", "c", kind="text")},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
    ]  # fmt: skip
    assert refusal(input=[{"role": "user", "content": [{"type": "refusal", "refusal": "no"}]}]).param == (
        "input[0].content[0].type"
    )


CALLS = [
    {
        "type": "function_call",
        "id": f"fc_{n}",
        "call_id": f"c{n}",
        "name": "f",
        "arguments": "{}",
        "status": "completed",
    }
    for n in (1, 2)
]
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "5"}
THOUGHT = {
    "type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}],
}  # fmt: skip
TOOL_CALLS = [{"id": f"c{n}", "type": "function", "function": {"name": "f", "arguments": "{}"}} for n in (1, 2)]


def test_calls_belong_to_the_message_before_them() -> None:
    said = {"role": "assistant", "content": "let me see"}
    assert messages({"role": "user", "content": "x"}, said, *CALLS, RESULT) == [
        {"role": "user", "content": "x"}, {"role": "assistant", "content": "let me see", "tool_calls": TOOL_CALLS},
        {"role": "tool", "tool_call_id": "c1", "content": "5"},
    ]  # fmt: skip


def test_calls_without_a_message_make_one_of_their_own() -> None:
    assert messages({"role": "user", "content": "x"}, *CALLS, {**RESULT, "output": text("5")}) == [
        {"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": TOOL_CALLS},
        {"role": "tool", "tool_call_id": "c1", "content": "5"},
    ]  # fmt: skip


def test_what_was_reasoned_belongs_to_the_message_after_it() -> None:
    said = {"role": "assistant", "content": "yes"}
    assert messages(THOUGHT, said) == [{"role": "assistant", "content": "yes", "reasoning": "hm"}]
    assert messages(THOUGHT, CALLS[0]) == [{"role": "assistant", "reasoning": "hm", "tool_calls": TOOL_CALLS[:1]}]
    assert messages(said, THOUGHT, CALLS[0])[1] == {
        "role": "assistant", "reasoning": "hm", "tool_calls": TOOL_CALLS[:1],
    }  # fmt: skip
    assert messages(THOUGHT, {"role": "user", "content": "x"}, said) == [{"role": "user", "content": "x"}, said]


def test_reasoning_that_cannot_be_read_is_refused_and_a_summary_is_left_out() -> None:
    sealed = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"}
    assert refusal(input=[sealed]).param == "input[0].encrypted_content"
    summary = {**sealed, "encrypted_content": None, "summary": [{"type": "summary_text", "text": "hm"}]}
    assert messages(summary, {"role": "assistant", "content": "yes"}) == [{"role": "assistant", "content": "yes"}]


def test_several_turns_in_one() -> None:
    items = [[{"role": "user", "content": "x"}], [THOUGHT, *CALLS], [RESULT, {**RESULT, "call_id": "c2"}], [THOUGHT]]
    roles = [message["role"] for message in messages(*itertools.chain(*items), {"role": "assistant", "content": "y"})]
    assert roles == ["user", "assistant", "tool", "tool", "assistant"]


def test_arguments_nested_too_deeply_are_refused_as_in_a_chat() -> None:
    call = {"type": "function_call", "call_id": "1", "name": "f", "arguments": "[" * 3000 + "]" * 3000}
    with pytest.raises(InvalidRequest) as caught:
        parsed(input=[call])
    assert caught.value.param == "input[0].arguments"
