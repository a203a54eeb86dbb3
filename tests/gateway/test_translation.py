# SPDX-License-Identifier: Apache-2.0
"""A chat completion as a response: every event is one of the official schema, and both ways the same object comes."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from openai import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from contract.errors import EngineFailed
from gateway.responses import parse_response
from gateway.translation import Translation
from gateway.usage import Meter, Usage
from tests.gateway.test_responses import BOUNDS

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
USAGE = Usage(7, 3, 2, 1, "reported")
COST = 8_700
HEAD = {"id": "chatcmpl-inv_1", "created": 1, "model": "base"}


def translation(wants_logprobs: bool = False, **fields: Any) -> Translation:
    echo = parse_response({"model": "public", "input": "hi", **fields}, BOUNDS).echo
    assert echo is not None
    return Translation("resp_inv_00ff", "public", echo, 1_700_000_000, wants_logprobs=wants_logprobs)


def whole(message: dict[str, Any], finish: str, logprobs: Any = None, **fields: Any) -> dict[str, Any]:
    """The response to a plain request."""
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish, "logprobs": logprobs}
    data = json.dumps({**HEAD, "choices": [choice]}).encode()
    made = translation(logprobs is not None, **fields).whole(data, Meter().read(data), USAGE, COST)
    Response.model_validate_json(made)
    return dict(json.loads(made))


def read_events(written: bytes) -> list[dict[str, Any]]:
    """Events as they were written, each checked against the official schema."""
    found = []
    for event in written.decode().split("\n\n")[:-1]:
        name, data = event.split("\n")
        told = json.loads(data.removeprefix("data: "))
        assert name == f"event: {told['type']}"
        EVENT.validate_python(told, strict=True)
        found.append(told)
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


def streamed(
    deltas: list[dict[str, Any]], finish: str, logprobs: bool = False, **fields: Any
) -> tuple[list[dict[str, Any]], Meter]:
    """The events of a stream, and what the meter has of it."""
    told, meter, written = translation(logprobs, **fields), Meter(), b""
    for number, delta in enumerate([{"role": "assistant", "content": ""}, *deltas, {"content": ""}]):
        given = delta.pop("logprobs", None)
        choice = {"index": 0, "delta": delta, "logprobs": given, "finish_reason": None}
        if number == len(deltas) + 1:
            choice["finish_reason"] = finish
        data = json.dumps({**HEAD, "choices": [choice]}).encode()
        written += told.events(data, meter.read(data))
    data = json.dumps({**HEAD, "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}).encode()
    assert told.events(data, meter.read(data)) == b""
    return read_events(written + told.end(USAGE, COST)), meter


def accumulated(events: list[dict[str, Any]]) -> Any:
    """What the official client makes of the deltas and of the items that ended, without the last event."""
    state: Any = ResponseStreamState(text_format=omit, input_tools=omit)
    for event in events[:-1]:
        state.handle_event(EVENT.validate_python(event))
    return state


PIECES = st.lists(st.text(min_size=1, max_size=5), max_size=4)
CALL = st.tuples(st.sampled_from(["f", "get_weather"]), PIECES)


@given(
    reasoning=PIECES, content=PIECES, refusal=st.lists(st.text(min_size=1, max_size=3), max_size=2),
    calls=st.lists(CALL, max_size=3), finish=st.sampled_from(["stop", "tool_calls", "length", "content_filter"]),
    older=st.booleans(),
)  # fmt: skip
@example(reasoning=[], content=[], refusal=[], calls=[], finish="stop", older=False)
def test_a_stream_adds_up_to_the_plain_answer_and_to_the_record(
    reasoning: list[str], content: list[str], refusal: list[str], calls: list[Any], finish: str, older: bool
) -> None:
    name = "reasoning_content" if older else "reasoning"
    deltas: list[dict[str, Any]] = [{name: piece} for piece in reasoning]
    deltas += [{"content": piece} for piece in content] + [{"refusal": piece} for piece in refusal]
    for index, (function, pieces) in enumerate(calls):
        first = {"index": index, "id": f"call_{index}", "type": "function", "function": {"name": function}}
        deltas += [{"tool_calls": [first]}]
        deltas += [{"tool_calls": [{"index": index, "function": {"arguments": piece}}]} for piece in pieces]
    message: dict[str, Any] = {
        "content": "".join(content) or None, name: "".join(reasoning) or None, "refusal": "".join(refusal) or None,
        "tool_calls": [
            {"id": f"call_{index}", "type": "function", "function": {"name": function, "arguments": "".join(pieces)}}
            for index, (function, pieces) in enumerate(calls)
        ],
    }  # fmt: skip
    events, meter = streamed(deltas, finish)
    response = events[-1]["response"]
    assert response == whole(message, finish)
    assert events[-1]["type"] == f"response.{response['status']}"

    state = accumulated(events)
    assert [item.to_dict() for _, item in sorted(state._completed_output.items())] == response["output"]
    for index, item in state._output_items.items():
        if item.type == "message":
            texts = [part["text"] for part in response["output"][index]["content"] if "text" in part]
            assert [part.text for part in item.content if part.type == "output_text"] == texts
        elif item.type == "function_call":
            assert item.arguments == response["output"][index]["arguments"]

    (recorded,) = json.loads(meter.choices)
    said = recorded["message"]
    told = Response.model_validate(response)
    assert (said["content"] or "") == told.output_text == "".join(content)
    assert [(call["id"], call["function"]) for call in said.get("tool_calls", [])] == [
        (item.call_id, {"name": item.name, "arguments": item.arguments})
        for item in told.output
        if item.type == "function_call"
    ]
    thoughts = [part.text for item in told.output if item.type == "reasoning" for part in item.content or ()]
    assert "".join(thoughts) == said.get("reasoning", "") == "".join(reasoning)
    parts = [part for item in told.output if item.type == "message" for part in item.content]
    refused = "".join(part.refusal for part in parts if part.type == "refusal")
    assert refused == said.get("refusal", "") == "".join(refusal)
    assert recorded["finish_reason"] == finish


@given(st.lists(st.tuples(st.sampled_from(["reasoning", "content", "refusal"]), st.text(min_size=1)), max_size=6))
def test_in_whatever_order_an_engine_speaks_each_item_ends_before_the_next(said: list[tuple[str, str]]) -> None:
    events, meter = streamed([{name: piece} for name, piece in said], "stop")
    opened: list[int] = []
    for event in events:
        kind, index = event["type"], event.get("output_index")
        if kind == "response.output_item.added":
            opened.append(index)
            assert index == len(opened) - 1
        elif kind == "response.output_item.done":
            assert index == opened[-1]
        elif index is not None:
            assert index == opened[-1]
            assert event["item_id"] == events[-1]["response"]["output"][index]["id"]
    response = Response.model_validate(events[-1]["response"])
    assert len(response.output) == len(opened) == sum(event["type"] == "response.output_item.done" for event in events)
    (recorded,) = json.loads(meter.choices)
    assert response.output_text == recorded["message"]["content"]
    state = accumulated(events)
    assert [item.to_dict() for _, item in sorted(state._completed_output.items())] == events[-1]["response"]["output"]


def test_the_events_of_a_text_come_in_their_order() -> None:
    events, _ = streamed([{"content": "a"}, {"content": "b"}], "stop")
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    first, done = events[0]["response"], events[-1]["response"]
    assert (first["status"], first["output"], first["usage"]) == ("in_progress", [], None)
    assert (done["status"], done["error"], done["incomplete_details"]) == ("completed", None, None)
    assert events[2]["item"]["status"] == "in_progress" and events[-2]["item"]["status"] == "completed"
    assert {event["item_id"] for event in events if "item_id" in event} == {"msg_00ff_0"} == {done["output"][0]["id"]}


def test_the_events_of_a_call_come_in_their_order() -> None:
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{"}}
    events, _ = streamed(
        [{"content": "a"}, {"tool_calls": [call]}, {"tool_calls": [{"index": 0, "function": {"arguments": "}"}}]}],
        "tool_calls",
    )
    assert [event["type"].removeprefix("response.") for event in events[5:]] == [
        "output_text.done", "content_part.done", "output_item.done", "output_item.added",
        "function_call_arguments.delta", "function_call_arguments.delta", "function_call_arguments.done",
        "output_item.done", "completed",
    ]  # fmt: skip
    assert [event["item"]["type"] for event in events if event["type"] == "response.output_item.done"] == [
        "message", "function_call",
    ]  # fmt: skip


@pytest.mark.parametrize(("finish", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")])
def test_an_answer_that_is_cut_short_says_so(finish: str, reason: str) -> None:
    message = {"reasoning": "hm", "content": "a"}
    response = whole(message, finish)
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": reason})
    assert [item["status"] for item in response["output"]] == ["completed", "incomplete"]


def test_the_request_is_echoed() -> None:
    tool = {"type": "function", "name": "f", "parameters": {}, "strict": None}
    fields: dict[str, Any] = {
        "instructions": "be", "metadata": {"a": "b"}, "temperature": 0.5, "top_p": 0.9, "max_output_tokens": 9,
        "parallel_tool_calls": False, "tools": [tool], "tool_choice": {"type": "function", "name": "f"}, "user": "u",
        "text": {"format": {"type": "json_object"}}, "reasoning": {"effort": "low"},
    }  # fmt: skip
    response = whole({"content": "a"}, "stop", **fields)
    for name in ("instructions", "metadata", "temperature", "top_p", "max_output_tokens", "tool_choice", "user"):
        assert response[name] == fields[name]
    assert response["parallel_tool_calls"] is False
    assert response["tools"] == [{**tool, "description": None}]
    assert response["text"]["format"] == {"type": "json_object"}
    assert response["reasoning"] == {"effort": "low", "summary": None}
    assert (response["model"], response["created_at"], response["store"]) == ("public", 1_700_000_000, False)
    plain = whole({"content": "a"}, "stop")
    assert (plain["tools"], plain["tool_choice"], plain["metadata"]) == ([], "auto", {})
    assert (plain["temperature"], plain["text"]["format"]) == (None, {"type": "text"})


def test_usage_and_cost_are_those_of_the_record_and_an_estimate_is_not_told() -> None:
    response = whole({"content": "a"}, "stop")
    assert response["usage"] == {
        "input_tokens": 7, "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0}, "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 1}, "total_tokens": 10,
    }  # fmt: skip
    assert response["x_millrace_cost"] == "0.000008700"
    told = json.loads(translation().end(Usage(1, 1, None, None, "estimated"), 5).split(b"data: ")[-1])["response"]
    assert told["usage"] is None and "x_millrace_cost" not in told


TOKENS = [{"token": each, "logprob": -0.5, "bytes": None, "top_logprobs": []} for each in ("a", "b", "")]


def test_logprobs_are_told_to_those_who_asked() -> None:
    pieces = [{"content": each["token"], "logprobs": {"content": [each]}} for each in TOKENS]
    events, _ = streamed(json.loads(json.dumps(pieces)), "stop", logprobs=True)
    response = whole({"content": "ab"}, "stop", logprobs={"content": TOKENS})
    assert events[-1]["response"] == response
    assert response["output"][0]["content"][0]["logprobs"] == [{**each, "bytes": []} for each in TOKENS]
    hidden, _ = streamed(pieces, "stop")
    assert hidden[-1]["response"]["output"][0]["content"][0]["logprobs"] == []


def test_an_engine_that_goes_back_to_an_ended_call_has_failed() -> None:
    calls = [{"tool_calls": [{"index": index, "id": "c", "function": {"name": "f"}}]} for index in (0, 1, 0)]
    with pytest.raises(EngineFailed):
        streamed(calls, "stop")


@pytest.mark.parametrize("choices", [[], [{"index": 0}], [{"index": 0, "message": 5}], [{"message": {"content": 5}}]])
def test_an_answer_without_a_message_is_the_engines_failure(choices: Any) -> None:
    data = json.dumps({**HEAD, "choices": choices}).encode()
    with pytest.raises(EngineFailed):
        translation().whole(data, Meter().read(data), USAGE, COST)


def test_a_stream_that_cannot_go_on_says_so_in_both_ways() -> None:
    told, meter = translation(), Meter()
    data = json.dumps({**HEAD, "choices": [{"index": 0, "delta": {"content": "a"}}]}).encode()
    written = told.events(data, meter.read(data))
    *_, failed, error = read_events(written + told.failed(EngineFailed("it fell over")))
    assert failed["type"] == "response.failed"
    assert failed["response"]["error"] == {"code": "server_error", "message": "it fell over"}
    assert [item["status"] for item in failed["response"]["output"]] == ["incomplete"]
    assert (error["code"], error["message"], error["error"]["type"]) == ("engine_error", "it fell over", "server_error")
