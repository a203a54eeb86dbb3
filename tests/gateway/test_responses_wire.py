# SPDX-License-Identifier: Apache-2.0
"""Responses as the official client gets them, against what the engine was asked and what the record holds."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from aiohttp import web
from openai import OpenAI
from openai.types.responses import Response
from pydantic import BaseModel

from contract.records import Invocation
from contract.settings import parse_settings
from tests.gateway.engine import PROMPT_TOKENS, FakeEngine, Handler, Script, frame, usage
from tests.gateway.engine import events as chunks
from tests.gateway.house import House, house, settings, until

WORDS = "one two three"
TOOL: Any = {
    "type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}, "strict": True,
    "description": None,
}  # fmt: skip
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}


def saying(*deltas: dict[str, Any], finish: str = "stop") -> Handler:
    """An engine whose message is made of these pieces."""

    async def answer(_engine: FakeEngine, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if not body.get("stream"):
            message: dict[str, Any] = {"role": "assistant", "content": None}
            for delta in deltas:
                message |= delta
            choice = {"index": 0, "message": message, "finish_reason": finish}
            total = usage(PROMPT_TOKENS, len(deltas))
            return web.json_response({**frame(request, body, "chat.completion"), "choices": [choice], "usage": total})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        head = frame(request, body, "chat.completion.chunk")
        for number, delta in enumerate(deltas, 1):
            calls = [{"index": index, **call} for index, call in enumerate(delta.get("tool_calls", ()))]
            choice = {"index": 0, "delta": delta | ({"tool_calls": calls} if calls else {}), "finish_reason": None}
            if number == len(deltas):
                choice["finish_reason"] = finish
            chunk = {**head, "choices": [choice], "usage": usage(PROMPT_TOKENS, number)}
            await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        last = {**head, "choices": [], "usage": usage(PROMPT_TOKENS, len(deltas))}
        await response.write(b"data: " + json.dumps(last).encode() + b"\n\ndata: [DONE]\n\n")
        return response

    return answer


async def respond(home: House, **fields: Any) -> Any:
    async with home.client() as client:
        return await client.responses.create(**{"model": "plain", "input": "Is it good?", **fields})


async def streamed(home: House, **fields: Any) -> list[Any]:
    async with home.client() as client:
        given: dict[str, Any] = {"model": "plain", "input": "Is it good?", **fields}
        return [event async for event in await client.responses.create(**given, stream=True)]


def compare(record: Invocation, response: Response) -> None:
    """The record says what the client saw: its id, text, tokens and price."""
    assert response.id == f"resp_{record.id}"
    assert (record.endpoint, record.status, record.usage_source) == ("/v1/responses", "complete", "reported")
    (choice,) = json.loads(record.choices or "")
    assert (choice["message"]["content"] or "") == response.output_text
    calls = [item for item in response.output if item.type == "function_call"]
    assert [(call["id"], call["function"]) for call in choice["message"].get("tool_calls", [])] == [
        (call.call_id, {"name": call.name, "arguments": call.arguments}) for call in calls
    ]
    assert response.usage is not None and record.cost is not None
    assert (record.prompt_tokens, record.completion_tokens, record.cached_tokens or 0) == (
        response.usage.input_tokens, response.usage.output_tokens, response.usage.input_tokens_details.cached_tokens,
    )  # fmt: skip
    assert (response.model_extra or {})["x_millrace_cost"] == f"{record.cost / 10**9:.9f}"


async def test_a_response_is_what_its_record_says(home: House) -> None:
    answer = await respond(home, instructions="be short", user="u", metadata={"conversation": "c"}, temperature=0.5)
    record = home.final()
    compare(record, answer)
    assert (answer.output_text, answer.model, answer.status, answer.error) == (WORDS, "plain", "completed", None)
    assert (answer.instructions, answer.metadata) == ("be short", {"conversation": "c"})
    asked = [{"role": "system", "content": "be short"}, {"role": "user", "content": "Is it good?"}]
    (body,) = home.engine.chats()
    assert body["messages"] == json.loads(record.messages or "") == asked
    assert json.loads(record.parameters or "") == {"temperature": 0.5}
    assert (body["max_completion_tokens"], body["temperature"]) == (4096, 0.5)
    assert (record.user, record.conversation) == ("u", "c")
    assert home.engine.headers[-1]["x-request-id"] == record.id


async def test_a_streamed_response_is_what_its_record_says(home: House) -> None:
    events = await streamed(home)
    record = home.final()
    compare(record, events[-1].response)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == WORDS
    assert {event.response.id for event in events if hasattr(event, "response")} == {f"resp_{record.id}"}
    assert [entry.status for entry in home.invocations()] == ["open", "complete"]


async def test_both_ways_give_the_same_object(home: House) -> None:
    plain, events = (await respond(home)).to_dict(), await streamed(home)
    again = events[-1].response.to_dict()
    for told in (plain, again):
        del told["id"], told["created_at"], told["output"][0]["id"]
    assert plain == again


async def test_the_bytes_of_a_stream(home: House) -> None:
    async with httpx2.AsyncClient(base_url=home.url, headers={"Authorization": f"Bearer {home.secret}"}) as http:
        given = {"model": "plain", "input": "x", "stream": True, "stream_options": {"include_obfuscation": False}}
        answer = await http.post("/v1/responses", json=given)
        whole = await http.post("/v1/responses", json={"model": "plain", "input": "x"})
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    events = answer.text.split("\n\n")
    assert events.pop() == "" and "[DONE]" not in answer.text and "chatcmpl" not in answer.text
    assert events[0].startswith('event: response.created\ndata: {"type":"response.created","sequence_number":0,')
    assert all(
        event.split("\n")[0].removeprefix("event: ") == json.loads(event.split("\ndata: ")[1])["type"]
        for event in events
    )
    assert whole.headers["x-millrace-cost"] == whole.json()["x_millrace_cost"]
    assert whole.headers["x-request-id"] == whole.json()["id"].removeprefix("resp_")


async def test_the_official_client_without_an_event_loop(home: House) -> None:
    def ask() -> list[str]:
        with OpenAI(base_url=f"{home.url}/v1", api_key=home.secret, max_retries=0) as client:
            plain = client.responses.create(model="plain", input="x")
            with client.responses.stream(model="plain", input="x") as stream:
                helped = stream.get_final_response()
            raw = list(client.responses.create(model="plain", input="x", stream=True))
            assert raw[-1].type == "response.completed"
            return [plain.output_text, helped.output_text, raw[-1].response.output_text]

    assert await asyncio.to_thread(ask) == [WORDS] * 3


class Opinion(BaseModel):
    good: bool


async def test_the_clients_parsing_helpers(home: House) -> None:
    home.engine.script.words = ['{"good"', ": tr", "ue}"]
    async with home.client() as client:
        parsed = await client.responses.parse(model="plain", input="x", text_format=Opinion)
        async with client.responses.stream(model="plain", input="x", text_format=Opinion) as stream:
            helped = await stream.get_final_response()
    assert parsed.output_parsed == helped.output_parsed == Opinion(good=True)
    wanted = home.engine.chats()[0]["response_format"]
    assert (wanted["type"], wanted["json_schema"]["name"]) == ("json_schema", "Opinion")
    assert wanted["json_schema"]["schema"]["required"] == ["good"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_and_its_result_come_back_in_the_next_request(home: House, stream: bool) -> None:
    home.engine.answer = saying({"reasoning": "hm"}, {"content": "wait"}, {"tool_calls": [CALL]}, finish="tool_calls")
    asked: list[Any] = [{"role": "user", "content": "x"}]
    if stream:
        first = (await streamed(home, input=asked, tools=[TOOL]))[-1].response
    else:
        first = await respond(home, input=asked, tools=[TOOL])
    compare(home.final(), first)
    assert [item.type for item in first.output] == ["reasoning", "message", "function_call"]
    assert first.output[0].content[0].text == "hm"
    assert first.output[2].call_id == "call_1"
    result = {"type": "function_call_output", "call_id": "call_1", "output": "5"}
    history = [*asked, *first.output, result]
    await respond(home, input=history, tools=[TOOL])
    assert home.engine.chats()[1]["messages"] == [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "wait", "reasoning": "hm", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "5"},
    ]
    function = {"name": "f", "parameters": TOOL["parameters"], "strict": True}
    assert home.engine.chats()[1]["tools"] == [{"type": "function", "function": function}]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_met_its_bound_is_incomplete(home: House, stream: bool) -> None:
    home.engine.answer = saying({"content": "one"}, finish="length")
    if stream:
        event = (await streamed(home, max_output_tokens=1))[-1]
        assert event.type == "response.incomplete"
        answer = event.response
    else:
        answer = await respond(home, max_output_tokens=1)
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert home.engine.chats()[0]["max_completion_tokens"] == 1
    assert (home.final().status, home.final().finish_reasons) == ("complete", ["length"])


async def test_what_only_the_policy_asked_for_is_kept_and_not_shown(engine: FakeEngine, tmp_path: Path) -> None:
    async with house(engine, settings(tmp_path, engine.url, policy="tokens: true")) as home:
        events = await streamed(home)
        assert "token_ids" not in json.dumps([event.to_dict() for event in events])
        assert events[-1].response.output[0].content[0].logprobs == []
        record = home.final()
        assert record.completion_token_ids == [[101, 102, 103]]
        assert record.logprobs == [[-0.5] * 3]
        shown = await streamed(home, include=["message.output_text.logprobs"], top_logprobs=0)
        assert [token.logprob for token in shown[-1].response.output[0].content[0].logprobs] == [-0.5] * 3


async def test_without_payload_the_client_gets_what_the_record_does_not(engine: FakeEngine, tmp_path: Path) -> None:
    async with house(engine, settings(tmp_path, engine.url, policy="payload: off")) as home:
        events = await streamed(home)
        assert events[-1].response.output_text == WORDS
        record = home.final()
        assert (record.messages, record.choices, record.completion_tokens) == (None, None, 3)


async def test_errors_before_the_first_byte_have_the_usual_shape(home: House) -> None:
    failures: tuple[tuple[type[openai.APIStatusError], dict[str, Any], str], ...] = (
        (openai.NotFoundError, {"model": "nobody"}, "model"),
        (openai.BadRequestError, {"temperature": 9}, "temperature"),
        (openai.BadRequestError, {"previous_response_id": "resp_1"}, "previous_response_id"),
        (openai.BadRequestError, {"tools": [{"type": "web_search"}]}, "tools[0].type"),
    )  # fmt: skip
    for kind, fields, param in failures:
        for stream in (False, True):
            with pytest.raises(kind) as caught:
                await respond(home, stream=stream, **fields)
            assert caught.value.param == param
    records = home.invocations()
    assert [(record.endpoint, record.status) for record in records] == [("/v1/responses", "refused")] * 8
    assert {record.alias for record in records} == {"nobody", "plain"}
    with pytest.raises(openai.AuthenticationError):
        async with home.client(api_key="mr-nobody") as client:
            await client.responses.create(model="plain", input="x")


async def test_a_model_without_text_is_named(home: House) -> None:
    home.engine.pooling = True
    with pytest.raises(openai.BadRequestError) as caught:
        await respond(home)
    assert (caught.value.param, caught.value.code) == ("model", "unsupported_model")
    assert "/v1/responses" in caught.value.message


async def gather(client: openai.AsyncOpenAI, events: list[Any]) -> None:
    """Every event of a stream, also of one that ends in an error."""
    async for event in await client.responses.create(model="plain", input="x", stream=True):
        events.append(event)  # noqa: PERF401  # those before an error are wanted as well


def die_after(script: Script, event: int) -> None:
    script.die_after = event


def complain_after(script: Script, event: int) -> None:
    script.error_after = event


@pytest.mark.parametrize("spoil", [die_after, complain_after])
async def test_a_failure_in_a_stream_is_told_and_raised(home: House, spoil: Callable[[Script, int], None]) -> None:
    spoil(home.engine.script, 3)
    events: list[Any] = []
    async with home.client() as client:
        with pytest.raises(openai.APIError) as caught:
            await gather(client, events)
    failed = events[-1]
    assert (failed.type, failed.response.status) == ("response.failed", "failed")
    assert failed.response.error.message == caught.value.message
    assert caught.value.code == "engine_error"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [(record.status, record.error_code) for record in home.invocations()] == [
        ("open", None), ("failed", "engine_error"),
    ]  # fmt: skip


@pytest.mark.parametrize("event", [0, 1, 3])
async def test_a_hang_up_is_metered_as_any_other(home: House, event: int) -> None:
    home.engine.script.hold_after = event + 1
    async with home.client() as client:
        stream = await client.responses.create(model="plain", input="x", stream=True)
        received = aiter(stream)
        for _ in range(2 if event == 0 else 3 + event):
            await anext(received)
        await stream.close()
    await until(lambda: any(record.status == "aborted" for record in home.invocations()))
    record = home.final()
    assert (record.completion_tokens, record.usage_source) == (event, "reported")
    await until(lambda: home.engine.aborts == 1)


async def test_what_outlasts_the_drain_is_told(home: House) -> None:
    home.engine.script.hold_after = 2
    events: list[Any] = []
    async with home.client() as client:
        reading = asyncio.create_task(gather(client, events))
        await until(lambda: events)
        home.worker.cut()
        with pytest.raises(openai.APIError) as caught:
            await reading
    assert (events[-1].type, caught.value.code) == ("response.failed", "shutting_down")
    assert home.final().status == "interrupted"


async def half_a_stream(engine: FakeEngine, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """One good event and one that is none, at once."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    good = json.dumps(chunks(engine, request, body)[0]).encode()
    await response.write(b"data: " + good + b"\n\ndata: {not json\n\n")
    return response


async def test_a_second_attempt_begins_anew(engine: FakeEngine, tmp_path: Path) -> None:
    other = FakeEngine()
    await other.start()
    engine.answer = half_a_stream
    text = f"""
    data_dir: {tmp_path}
    gateway: {{port: 0}}
    engines:
      - {{name: odd, base_model: base, url: "{engine.url}"}}
      - {{name: good, base_model: base, url: "{other.url}"}}
    models:
      plain: {{engine: odd, fallbacks: [other], price: {{input: 1, output: 1}}}}
      other: {{engine: good, price: {{input: 3, output: 1}}}}
    """
    async with house(engine, parse_settings(text)) as home:
        await until(lambda: home.worker.routes.answers("other"))
        events = await streamed(home)
        record = home.final()
        compare(record, events[-1].response)
        assert (record.attempts, record.replica) == (2, "good-0")
        assert [event.sequence_number for event in events] == list(range(len(events)))
    await other.stop()


async def test_feedback_knows_a_response_by_its_id(home: House) -> None:
    answer = await respond(home)
    async with home.client() as client:
        body = {"invocation": answer.id, "metric": "label", "value": "positive"}
        await client.post("/feedback", body=body, cast_to=object)
    (given,) = home.feedback()
    assert given.invocation == home.final().id
