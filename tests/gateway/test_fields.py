# SPDX-License-Identifier: Apache-2.0
import typing

import orjson
import pytest
from openai.types.chat import ChatCompletionMessageParam, completion_create_params
from openai.types.chat.chat_completion_stream_options_param import ChatCompletionStreamOptionsParam

from contract.errors import InvalidRequest, UnknownParameter, UnsupportedParameter
from contract.settings import GatewaySettings
from gateway.asked import Asked
from gateway.fields import ACCEPTED, APPLIED, EXTRAS, KEPT, OWN, REFUSED, parse_body, parse_chat
from gateway.messages import _FIELDS

ASK = [{"role": "user", "content": "hello"}]
BOUNDS = GatewaySettings(max_completion_tokens=100, max_choices=4, max_messages=3)


def parsed(**fields: object) -> Asked:
    return parse_chat({"model": "m", "messages": ASK, **fields}, BOUNDS)


def refusal(**fields: object) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parsed(**fields)
    return caught.value


def test_every_field_of_the_openai_schema_has_one_fate() -> None:
    known = [set(fate) for fate in (APPLIED, KEPT, ACCEPTED, REFUSED, OWN)]
    schema = set(typing.get_type_hints(completion_create_params.CompletionCreateParamsStreaming))
    assert set().union(*known) == schema
    assert sum(map(len, known)) == len(schema)
    assert not schema & set(EXTRAS)


def test_every_message_field_of_the_openai_schema_is_known() -> None:
    for kind in typing.get_args(ChatCompletionMessageParam):
        hints = typing.get_type_hints(kind)
        role = typing.get_args(hints["role"])[0]
        if role != "function":  # deprecated, and refused with its role
            assert set(hints) - {"role"} <= _FIELDS[role], role


def test_the_stream_options_of_the_openai_schema_are_known() -> None:
    for name in typing.get_type_hints(ChatCompletionStreamOptionsParam):
        parsed(stream=True, stream_options={name: True})


@pytest.mark.parametrize(
    "name",
    [
        "chat_template", "chat_template_kwargs", "kv_transfer_params", "vllm_xargs", "request_id", "priority",
        "cache_salt", "session_id", "documents", "mm_processor_kwargs", "echo", "prompt_logprobs", "return_token_ids",
        "structured_outputs", "guided_json", "use_beam_search", "tempersture",
    ],
)  # fmt: skip
def test_a_field_that_is_not_on_a_list_is_refused_by_name(name: str) -> None:
    error = refusal(**{name: {"x": 1}})
    assert isinstance(error, UnknownParameter)
    assert error.param == name
    assert name in error.message


@pytest.mark.parametrize(
    ("fields", "param", "value"),
    [
        ({"temperature": "hot"}, "temperature", "hot"),
        ({"temperature": True}, "temperature", "true"),
        ({"temperature": 2.5}, "temperature", "2.5"),
        ({"top_p": 0}, "top_p", "0"),
        ({"n": 5}, "n", "5"),
        ({"n": 1.5}, "n", "1.5"),
        ({"max_tokens": 101}, "max_tokens", "101"),
        ({"max_completion_tokens": 0}, "max_completion_tokens", "0"),
        ({"stream": "yes"}, "stream", "yes"),
        ({"stop": [1]}, "stop[0]", "1"),
        ({"seed": 2**70}, "seed", str(2**70)),
        ({"logit_bias": {"5": 200}}, "logit_bias.5", "200"),
        ({"top_logprobs": 3}, "top_logprobs", "3"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "include_usage"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "xml"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "null"),
        ({"tool_choice": "any"}, "tool_choice", "any"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name", "null"),
        ({"metadata": {"k": 5}}, "metadata.k", "5"),
        ({"metadata": {"k": "v" * 513}}, "metadata.k", "vvv"),
        ({"user": 5}, "user", "5"),
        ({"top_k": -2}, "top_k", "-2"),
        ({"model": None}, "model", "is missing"),
        ({"messages": None}, "messages", "is missing"),
        ({"model": ""}, "model", '""'),
        ({"messages": []}, "messages", "[]"),
        ({"messages": ASK * 4}, "messages", "4"),
        ({"messages": "hi"}, "messages", "hi"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role", "king"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "null"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "5"),
        ({"messages": [{"role": "user", "content": "x", "weight": 1}]}, "messages[0].weight", "weight"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id", "null"),
    ],
)
def test_a_bad_value_is_named_with_its_field(fields: dict[str, object], param: str, value: str) -> None:
    error = refusal(**fields)
    assert error.param == param
    assert param in error.message
    assert value in error.message


def test_a_whole_number_may_be_written_with_a_point() -> None:
    assert parsed(max_tokens=5.0, seed=-2.0).parameters == b'{"max_tokens":5,"seed":-2}'


def test_a_number_that_was_rounded_when_it_was_read_is_refused() -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"x"}],"seed":-9223372036854775809}'
    with pytest.raises(InvalidRequest, match="seed") as caught:
        parse_chat(parse_body(body), BOUNDS)
    assert caught.value.param == "seed"


@pytest.mark.parametrize(("field", "value"), [("service_tier", 0), ("modalities", [True]), ("tools", [{"type": 1}])])
def test_a_value_of_another_type_is_no_other_spelling(field: str, value: object) -> None:
    assert str(refusal(**{field: value}).param).startswith(field)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_known_field_that_cannot_be_honoured_is_refused_by_name(name: str) -> None:
    error = refusal(**{name: {"x": 1}})
    assert isinstance(error, UnsupportedParameter)
    assert error.param == name


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file"])
def test_parts_that_would_make_the_engine_fetch_something_never_pass(kind: str) -> None:
    part = {"type": kind, kind: {"url": "http://169.254.169.254/"}}
    error = refusal(messages=[{"role": "user", "content": [{"type": "text", "text": "x"}, part]}])
    assert isinstance(error, UnsupportedParameter)
    assert error.param == "messages[0].content[1].type"


@pytest.mark.parametrize("penalty", [1e-38, 0.0099, 0, 10.1])
def test_a_penalty_that_leaves_an_engine_without_numbers_is_refused(penalty: float) -> None:
    assert refusal(repetition_penalty=penalty).param == "repetition_penalty"
    parsed(repetition_penalty=0.01)


def called_with(arguments: str) -> list[dict[str, object]]:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return [*ASK, {"role": "assistant", "tool_calls": [call]}]


@pytest.mark.parametrize("arguments", ["[" * 100_000, "[" * 500 + "]" * 500, '{"a":' * 300 + "1" + "}" * 300])
def test_arguments_that_an_engine_cannot_read_are_refused(arguments: str) -> None:
    refused = refusal(messages=called_with(arguments))
    assert refused.param == "messages[1].tool_calls[0].function.arguments"
    assert len(refused.message) < 200


@pytest.mark.parametrize("arguments", ["", "{not json", "[" * 200, '[{"a":[]}' + ',{"a":[]}' * 1000 + "]"])
def test_arguments_are_otherwise_as_the_model_wrote_them(arguments: str) -> None:
    (_, message) = orjson.loads(parsed(messages=called_with(arguments)).prompt)
    assert message["tool_calls"][0]["function"]["arguments"] == arguments


def test_null_means_absent() -> None:
    nulls = dict.fromkeys([*APPLIED, *EXTRAS, *KEPT, *ACCEPTED, *REFUSED, "stream", "stream_options"])
    request = parsed(**nulls)
    assert request.parameters == b"{}"
    assert not request.stream


def test_hints_are_accepted_and_not_sent_on() -> None:
    request = parsed(service_tier="auto", prompt_cache_key="k", modalities=["text"], prediction={})
    assert request.parameters == b"{}"
    assert refusal(service_tier="priority").param == "service_tier"


def test_user_and_metadata_are_for_the_record_alone() -> None:
    request = parsed(user="u", metadata={"conversation": "c", "k": "v"}, safety_identifier="s", store=True)
    assert (request.user, request.conversation, request.metadata) == ("u", "c", {"conversation": "c", "k": "v"})
    assert parsed(safety_identifier="s").user == "s"
    assert (request.store, parsed().store, parsed(store=False).store) == (True, False, False)
    assert {"user", "metadata", "safety_identifier", "store"}.isdisjoint(
        orjson.loads(request.upstream("v", "s", tokens=False))
    )


def test_the_engines_body_is_built_from_known_fields() -> None:
    request = parsed(temperature=0.5, top_k=5, stop="x", max_completion_tokens=7)
    assert orjson.loads(request.upstream("m@1", "salt", tokens=False)) == {
        "model": "m@1", "messages": ASK, "cache_salt": "salt", "temperature": 0.5, "top_k": 5, "stop": "x",
        "max_completion_tokens": 7,
    }  # fmt: skip


def test_usage_is_always_asked_of_a_stream() -> None:
    body = orjson.loads(parsed(stream=True).upstream("m", "s", tokens=False))
    assert body["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}


def test_token_ids_and_logprobs_are_asked_for_where_the_policy_keeps_them() -> None:
    body = orjson.loads(parsed(logprobs=True, top_logprobs=2).upstream("m", "s", tokens=True))
    assert (body["return_token_ids"], body["logprobs"], body["top_logprobs"]) == (True, True, 2)
    assert "return_token_ids" not in orjson.loads(parsed().upstream("m", "s", tokens=False))


def test_an_assistants_own_answer_may_come_back_as_it_was() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    answered = {
        "role": "assistant", "content": None, "refusal": None, "annotations": [], "audio": None, "function_call": None,
        "tool_calls": [call], "reasoning": None,
    }  # fmt: skip
    result = {"role": "tool", "tool_call_id": "c1", "content": "5"}
    assert orjson.loads(parsed(messages=[*ASK, answered, result]).prompt) == [
        *ASK, {"role": "assistant", "tool_calls": [call]}, result,
    ]  # fmt: skip


DEEP = b'{"a":' + b"[" * 1000 + b"]" * 1000 + b"}"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"5", b"\xff", b'{"a":"\\ud800"}', b"[" * 5000, DEEP, b"NaN"])
def test_a_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="body") as caught:
        parse_body(body)
    assert caught.value.code == "invalid_json"


def test_a_name_that_nothing_has_is_told_and_not_echoed_at_length() -> None:
    document = {"model": "m", "messages": [{"role": "user", "content": "x"}], "x" * 100_000: 1}
    with pytest.raises(UnknownParameter) as caught:
        parse_chat(document, GatewaySettings())
    assert caught.value.param == "x" * 80 + "…"
    assert len(caught.value.message) < 200


def test_an_unknown_field_is_refused_whatever_its_value() -> None:
    with pytest.raises(UnknownParameter) as caught:
        parse_chat({"model": "m", "messages": [{"role": "user", "content": "x"}], "nonsense": None}, GatewaySettings())
    assert caught.value.param == "nonsense"
