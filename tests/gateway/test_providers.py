# SPDX-License-Identifier: Apache-2.0
"""A model behind a provider is one like the others: same client, same record, same errors.

The provider is a server that does what a test tells it to, reached through litellm in two of its ways: OpenAI's SDK,
and litellm's own client.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from aiohttp import web

from contract.money import whole_nanos
from contract.settings import Settings, parse_settings
from gateway.replicas import RetryBudget
from tests.gateway.engine import PROMPT_TOKENS, FakeEngine, Script, error, frame, usage
from tests.gateway.house import ASK, House, house, until

KEY = "sk-canary-of-the-provider"
SETTINGS = """
data_dir: {folder}
gateway: {{port: 0, drain_timeout: 5s, retry_share: 1, {gateway}}}
engines:
  - {{name: small, base_model: base, url: "{engine}"}}
providers:
  far: {{kind: {kind}, api_base: "{url}{path}", api_key_env: FAR_KEY{account}}}
models:
  plain: {{provider: far, model: base, price: {{input: 0.5, cached_input: 0.1, output: 2}}{model}}}
  local: {{engine: small, fallbacks: [plain], price: {{input: 3, output: 3}}}}
log: {{policy: {{{policy}}}}}
"""
KINDS = ("openai", "hosted_vllm")


def configured(
    folder: Path, provider: FakeEngine, engine: str = "http://127.0.0.1:9", kind: str = "openai", **more: str
) -> Settings:
    extra = {
        "path": {"anthropic": "", "gemini": "/v1beta"}.get(kind, "/v1"),
        "gateway": "",
        "account": "",
        "model": "",
        "policy": "",
        **more,
    }
    return parse_settings(SETTINGS.format(folder=folder, url=provider.url, engine=engine, kind=kind, **extra))


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAR_KEY", KEY)


@pytest.fixture(params=KINDS)
async def home(engine: FakeEngine, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[House]:
    """A gateway whose model `plain` is a provider's: `home.engine` is that provider."""
    async with house(engine, configured(tmp_path, engine, kind=request.param)) as running:
        yield running


async def ask(home: House, **fields: Any) -> Any:
    async with home.client() as client:
        return await client.chat.completions.create(**{"model": "plain", "messages": ASK, **fields})


async def stream(home: House, **fields: Any) -> list[Any]:
    async with home.client() as client:
        answer = await client.chat.completions.create(**{"model": "plain", "messages": ASK, "stream": True, **fields})
        return [chunk async for chunk in answer]


def said(record: Any) -> str:
    return json.loads(record.choices)[0]["message"]["content"]


def cost(prompt: int, cached: int, completion: int) -> int:
    return whole_nanos((prompt - cached) * 500_000_000 + cached * 100_000_000 + completion * 2_000_000_000)


async def test_a_plain_answer_is_billed_and_logged_as_an_engines_is(home: House) -> None:
    async with home.client() as client:
        raw = await client.chat.completions.with_raw_response.create(model="plain", messages=ASK, temperature=0.5)
    answer, record = raw.parse(), home.final()
    assert (answer.id, answer.model) == (f"chatcmpl-{record.id}", "plain")
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("one two three", "stop")
    assert raw.headers["x-millrace-model-version"] == "base"
    assert raw.headers["x-request-id"] == record.id
    assert (record.status, record.alias, record.version, record.replica) == ("complete", "plain", "base", "far")
    assert (record.prompt_tokens, record.cached_tokens, record.completion_tokens) == (PROMPT_TOKENS, 2, 3)
    assert (record.usage_source, record.cost) == ("reported", cost(PROMPT_TOKENS, 2, 3))
    assert float(raw.headers["x-millrace-cost"]) == cost(PROMPT_TOKENS, 2, 3) / 10**9
    assert answer.usage is not None
    assert answer.usage.model_dump(exclude_none=True)["prompt_tokens_details"] == {"cached_tokens": 2}
    assert said(record) == "one two three"
    assert json.loads(record.messages or "") == ASK
    (body,) = home.engine.requests
    assert (body["model"], body["messages"], body["temperature"]) == ("base", ASK, 0.5)
    assert "cache_salt" not in body
    assert body["max_completion_tokens"] == 4096
    assert home.engine.headers[0]["authorization"] == f"Bearer {KEY}"


async def test_a_stream_is_relayed_and_ends_with_usage_and_cost_where_asked_for(home: House) -> None:
    chunks = await stream(home, stream_options={"include_usage": True})
    record = home.final()
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "one two three" == said(record)
    assert [chunk.choices[0].delta.role for chunk in chunks[:-1]] == ["assistant", None, None, None, None]
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None, None, None, None, "stop"]
    assert {(chunk.id, chunk.model) for chunk in chunks} == {(f"chatcmpl-{record.id}", "plain")}
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (PROMPT_TOKENS, 3)
    assert float(chunks[-1].x_millrace_cost) == cost(PROMPT_TOKENS, 2, 3) / 10**9
    assert [each.status for each in home.invocations()] == ["open", "complete"]
    assert (record.usage_source, record.cost, record.finish_reasons) == (
        "reported", cost(PROMPT_TOKENS, 2, 3), ["stop"],
    )  # fmt: skip
    assert home.engine.requests[0]["stream_options"] == {"include_usage": True}


async def test_usage_is_always_asked_for_and_shown_to_those_who_ask(home: House) -> None:
    chunks = await stream(home)
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)
    assert (home.final().prompt_tokens, home.final().usage_source) == (PROMPT_TOKENS, "reported")


@pytest.mark.parametrize("streamed", [False, True])
async def test_usage_that_the_provider_does_not_tell_is_estimated_and_said_to_be(home: House, streamed: bool) -> None:
    home.engine.script = Script(usage="none")
    await (stream if streamed else ask)(home)
    record = home.final()
    assert record.usage_source == "estimated"
    assert (record.prompt_tokens, record.completion_tokens) != (0, 0)
    assert record.cached_tokens is record.reasoning_tokens is None


@pytest.mark.parametrize("streamed", [False, True])
async def test_every_one_of_several_answers_keeps_its_text_and_its_end(home: House, streamed: bool) -> None:
    home.engine.script = Script(n=2)
    if streamed:
        chunks = await stream(home, n=2)
        ends = {
            choice.index: choice.finish_reason for each in chunks for choice in each.choices if choice.finish_reason
        }
        assert ends == {0: "stop", 1: "stop"}
    else:
        assert [choice.index for choice in (await ask(home, n=2)).choices] == [0, 1]
    record = home.final()
    assert [choice["message"]["content"] for choice in json.loads(record.choices or "")] == ["one two three"] * 2
    assert (record.completion_tokens, record.finish_reasons) == (6, ["stop", "stop"])


def chunk(request: web.Request, body: dict[str, Any], delta: dict[str, Any], end: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": end}
    return event({**frame(request, body, "chat.completion.chunk"), "choices": [choice]})


def event(said: Any) -> bytes:
    return b"data: " + json.dumps(said).encode() + b"\n\n"


async def sse(request: web.Request, *events: bytes, done: bytes = b"data: [DONE]\n\n") -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for each in events:
        await response.write(each)
    await response.write(done)
    return response


TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


@pytest.mark.parametrize("streamed", [False, True])
async def test_calls_of_tools_and_reasoning_come_through(home: House, streamed: bool) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at":1}'}}
    told = {**usage(7, 9, 3), "completion_tokens_details": {"reasoning_tokens": 4}}

    async def calling(_engine: FakeEngine, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        assert (body["tools"], body["tool_choice"]) == ([TOOL], "auto")
        if not body.get("stream"):
            message = {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [call]}
            choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
            return web.json_response({**frame(request, body, "chat.completion"), "choices": [choice], "usage": told})
        first = {**call, "index": 0, "function": {"name": "look", "arguments": ""}}
        rest = {"index": 0, "function": {"arguments": '{"at":1}'}}
        return await sse(
            request,
            chunk(request, body, {"role": "assistant", "reasoning_content": "hm"}),
            chunk(request, body, {"tool_calls": [first]}),
            chunk(request, body, {"tool_calls": [rest]}),
            chunk(request, body, {}, "tool_calls"),
            event({**frame(request, body, "chat.completion.chunk"), "choices": [], "usage": told}),
        )

    home.engine.answer = calling
    asked = {"tools": [TOOL], "tool_choice": "auto"}
    if streamed:
        deltas = [each.choices[0].delta for each in await stream(home, **asked)]
        pieces = [piece for delta in deltas for piece in delta.tool_calls or ()]
        assert (pieces[0].id, pieces[0].function.name) == ("call_1", "look")
        assert "".join(piece.function.arguments or "" for piece in pieces) == '{"at":1}'
        assert deltas[0].model_extra["reasoning_content"] == "hm"
    else:
        message = (await ask(home, **asked)).choices[0].message
        assert (message.tool_calls[0].id, message.tool_calls[0].function.arguments) == ("call_1", '{"at":1}')
        assert message.model_extra["reasoning_content"] == "hm"
    record = home.final()
    assert json.loads(record.choices or "")[0]["message"]["tool_calls"][0]["function"] == call["function"]
    assert (record.cached_tokens, record.reasoning_tokens, record.finish_reasons) == (3, 4, ["tool_calls"])


REFUSALS = [
    # status, the provider's error; what the client sees
    (400, {"message": "temperature is bad for base", "param": "temperature"}, 400, "invalid_value", "temperature"),
    (400, {"message": "This model's maximum context length is 4096 tokens"}, 400, "invalid_value", "messages"),
    (400, {"message": "rejected", "code": "content_policy_violation"}, 400, "content_policy_violation", None),
    (400, {"message": f"{KEY} at 127.0.0.1 may not"}, 400, "invalid_value", None),
    (422, {"message": "no such role"}, 400, "invalid_value", None),
    (401, {"message": f"Incorrect API key provided: {KEY}"}, 502, "provider_refused", None),
    (403, {"message": f"{KEY} may not"}, 502, "provider_refused", None),
    (404, {"message": "The model `base` does not exist"}, 502, "provider_refused", None),
    (429, {"message": "slow down"}, 503, "overloaded", None),
    (503, {"message": "busy"}, 503, "overloaded", None),
    (529, {"message": "busy"}, 503, "overloaded", None),
    (504, {"message": "late"}, 504, "engine_timeout", None),
    (500, {"message": "boom"}, 502, "engine_error", None),
]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_providers_refusals_are_errors_of_ours_without_its_secrets(
    engine: FakeEngine, tmp_path: Path, kind: str
) -> None:
    async with house(engine, configured(tmp_path, engine, kind=kind)) as home:
        for status, error, shown, code, param in REFUSALS:
            for streamed in (False, True):
                await check_refusal(home, status, error, streamed, (shown, code, param))
        assert len(home.engine.requests) == 2 * len(REFUSALS), "litellm tries nothing again"
        records = home.invocations()
    expected = [status for _, _, status, _, _ in REFUSALS for _ in range(2)]
    assert [record.http_status for record in records] == expected
    assert {record.status for record in records if (record.http_status or 0) < 500} == {"refused"}
    assert {record.status for record in records if (record.http_status or 0) >= 500} == {"failed"}
    assert all(not record.cost for record in records)


async def check_refusal(
    home: House, status: int, error: dict[str, str], streamed: bool, wanted: tuple[int, str, str | None]
) -> None:
    where = f"{error['message']} see {home.engine.url}/v1/help or https://docs.provider.example/keys"

    async def refusing(_engine: FakeEngine, _request: web.Request, _body: dict[str, Any]) -> web.StreamResponse:
        body = {"error": {"type": "x", "param": None, "code": None, **error, "message": where}}
        return web.json_response(body, status=status, headers={"retry-after": "7"})

    home.engine.answer = refusing
    with pytest.raises(openai.APIStatusError) as caught:
        await ask(home, stream=streamed)
    raised = caught.value
    assert (raised.status_code, raised.code, raised.param) == wanted, error
    assert raised.response.headers.get("retry-after") == ("7" if raised.status_code == 503 else None)
    body = raised.response.text
    assert "127.0.0.1" not in body
    assert "provider.example" not in body
    assert "canary" not in body
    assert "itellm" not in body
    if raised.param == "temperature":
        assert "temperature is bad for plain" in body


async def test_what_the_providers_kind_does_not_know_is_a_400_that_names_it(engine: FakeEngine, tmp_path: Path) -> None:
    async with house(engine, configured(tmp_path, engine, kind="anthropic")) as home:
        with pytest.raises(openai.BadRequestError) as caught:
            await ask(home, seed=3)
        assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "seed")
        assert (home.final().status, home.engine.requests) == ("refused", [])


async def test_other_routes_are_refused_by_name_and_before_the_provider_is_asked(home: House) -> None:
    async with home.client() as client:
        for asking in (
            client.completions.create(model="plain", prompt="x"),
            client.embeddings.create(model="plain", input="x"),
        ):
            with pytest.raises(
                openai.BadRequestError, match="POST /v1/chat/completions and /v1/responses alone"
            ) as caught:
                await asking
            assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "model")
    assert {record.attempts for record in home.invocations()} == {0}
    assert home.engine.requests == []


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_response_is_asked_for_as_a_chat_completion(home: House, streamed: bool) -> None:
    async with home.client() as client:
        answer: Any = await client.responses.create(model="plain", input="Is it good?", stream=streamed)
        if streamed:
            *_, last = [event async for event in answer]
            answer = last.response
    assert (answer.output_text, answer.usage.input_tokens, answer.usage.output_tokens) == (
        "one two three", PROMPT_TOKENS, 3,
    )  # fmt: skip
    record = home.final()
    assert (record.endpoint, record.replica, record.status) == ("/v1/responses", "far", "complete")
    assert record.cost == cost(PROMPT_TOKENS, 2, 3)


@pytest.mark.parametrize("event_number", range(1, 5))
async def test_a_hang_up_at_any_event_ends_the_call_and_is_metered(home: House, event_number: int) -> None:
    home.engine.script = Script(hold_after=event_number)
    client = home.client()
    answer = await client.chat.completions.create(model="plain", messages=ASK, stream=True)
    chunks = aiter(answer)
    received = [(await anext(chunks)).choices[0].delta.content or "" for _ in range(event_number)]
    await answer.close()
    await client.close()
    await until(lambda: any(record.status == "aborted" for record in home.invocations()))
    await until(lambda: home.engine.aborts == 1)
    record = home.final()
    assert (record.http_status, record.usage_source) == (200, "estimated")
    assert "".join(received) == said(record)
    assert record.completion_tokens == event_number - 1
    assert record.cost == cost(record.prompt_tokens or 0, 0, event_number - 1)
    assert home.worker.limits.in_flight == 0


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_hang_up_before_any_answer_ends_the_call(home: House, streamed: bool) -> None:
    home.engine.script = Script(hold_after=0)
    waiting = asyncio.create_task(ask(home, stream=streamed))
    await until(lambda: home.engine.chats())
    waiting.cancel()
    await until(lambda: home.invocations() and home.engine.aborts == 1)
    record = home.final()
    assert (record.status, record.http_status, record.usage_source) == ("aborted", None, "estimated")


@pytest.mark.parametrize("event_number", range(1, 5))
async def test_a_provider_that_dies_in_a_stream_is_an_error_inside_it(home: House, event_number: int) -> None:
    home.engine.script = Script(die_after=event_number)
    received = ""
    with pytest.raises(openai.APIError) as caught:
        async with home.client() as client:
            answer = await client.chat.completions.create(model="plain", messages=ASK, stream=True)
            async for each in answer:
                received += each.choices[0].delta.content or ""
    assert caught.value.code == "engine_error"
    record = home.final()
    assert (record.status, record.http_status, record.error_code, record.cost) == ("failed", 200, "engine_error", 0)
    assert received == said(record)


async def test_a_stream_that_ends_without_its_last_word_is_a_failed_request(home: House) -> None:
    async def halved(_engine: FakeEngine, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await sse(request, chunk(request, body, {"role": "assistant", "content": "one"}), done=b"")

    home.engine.answer = halved
    with pytest.raises(openai.APIError, match="without saying that it was done"):
        await stream(home)
    assert (home.final().status, home.final().error_code) == ("failed", "engine_error")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_text_that_speaks_of_the_end_of_a_stream_is_whole_or_an_error(
    engine: FakeEngine, tmp_path: Path, kind: str
) -> None:
    engine.script = Script(words=["a stream ends in ", "[DONE]", " as it should"])
    async with house(engine, configured(tmp_path, engine, kind=kind)) as home:
        if kind == "openai":
            await stream(home)
            assert said(home.final()) == "a stream ends in [DONE] as it should"
        else:
            with pytest.raises(openai.APIError, match="went on after its end"):
                await stream(home)
            assert home.final().status == "failed"


@pytest.mark.parametrize("event_number", [0, 2])
async def test_an_error_event_is_a_failed_request(home: House, event_number: int) -> None:
    home.engine.script = Script(error_after=event_number)
    with pytest.raises(openai.APIError) as caught:
        await stream(home)
    assert (caught.value.code, "EngineCore" in str(caught.value)) == ("engine_error", False)
    assert home.final().http_status == (200 if event_number else 502)


@pytest.mark.parametrize("body", [b"<html>hello</html>", b"{}", b'{"choices": []}'])
async def test_a_plain_answer_that_is_garbage_is_502(home: House, body: bytes) -> None:
    async def garbage(_engine: FakeEngine, _request: web.Request, _body: dict[str, Any]) -> web.StreamResponse:
        return web.Response(body=body, content_type="application/json")

    home.engine.answer = garbage
    for streamed in (False, True):
        with pytest.raises(openai.InternalServerError) as caught:
            await ask(home, stream=streamed)
        assert (caught.value.status_code, caught.value.code) == (502, "engine_error")


async def test_words_that_repeat_are_no_error(home: House) -> None:
    home.engine.script = Script(words=["the same again "] * 150)
    await stream(home)
    assert said(home.final()) == "the same again " * 150


@pytest.mark.parametrize("where", ["gateway", "account"])
@pytest.mark.parametrize(
    ("limit", "hold_after", "code"),
    [
        ("first_byte_timeout: 200ms", 0, "engine_first_byte_timeout"),
        ("read_timeout: 200ms", 2, "engine_read_timeout"),
        ("total_timeout: 400ms", 2, "engine_total_timeout"),
    ],
)
async def test_each_timeout_has_its_own_error(
    engine: FakeEngine, tmp_path: Path, where: str, limit: str, hold_after: int, code: str
) -> None:
    said_there = {where: limit if where == "gateway" else f", {limit}"}
    async with house(engine, configured(tmp_path, engine, **said_there)) as home:
        engine.script = Script(hold_after=hold_after)
        with pytest.raises(openai.APIError) as caught:
            await stream(home)
        assert (caught.value.code, limit.split(":")[0] in caught.value.message) == (code, True)
        assert (home.final().status, home.final().error_code) == ("failed", code)
        await until(lambda: engine.aborts == 1)


async def test_a_connection_that_does_not_come_has_an_error_of_its_own(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf, socket.create_connection(deaf.getsockname()):
        fake = FakeEngine()  # its queue is full now: a connection waits
        fake.url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        async with house(fake, configured(tmp_path, fake, gateway="connect_timeout: 0.2s")) as home:
            with pytest.raises(openai.InternalServerError) as caught:
                await ask(home)
            assert (caught.value.status_code, caught.value.code) == (504, "engine_connect_timeout")
            assert (home.final().status, home.final().cost) == ("failed", None)


async def test_a_provider_that_cannot_be_reached_is_503(home: House) -> None:
    await home.engine.stop()
    for streamed in (False, True):
        with pytest.raises(openai.InternalServerError) as caught:
            await ask(home, stream=streamed)
        assert (caught.value.status_code, caught.value.code) == (503, "engine_unavailable")
        assert "127.0.0.1" not in caught.value.response.text
    await home.engine.start()
    await ask(home)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_provider_answers_for_an_engine_that_cannot(engine: FakeEngine, tmp_path: Path, streamed: bool) -> None:
    async with house(engine, configured(tmp_path, engine)) as home:
        answer = await (stream if streamed else ask)(home, model="local")
        record = home.final()
        assert (answer[0] if streamed else answer).model == "local"
        assert (record.alias, record.version, record.replica) == ("local", "base", "far")
        assert (record.status, record.cost) == ("complete", cost(PROMPT_TOKENS, 2, 3))


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_provider_answers_for_an_engine_that_fails(engine: FakeEngine, tmp_path: Path, streamed: bool) -> None:
    failing = FakeEngine()
    await failing.start()

    async def broken(_engine: FakeEngine, _request: web.Request, _body: dict[str, Any]) -> web.StreamResponse:
        return error(500, "EngineCore died")

    failing.answer = broken
    async with house(engine, configured(tmp_path, engine, failing.url)) as home:
        await until(lambda: home.worker.routes.answers("local"))
        await (stream if streamed else ask)(home, model="local")
        record = home.final()
        assert (len(failing.chats()), record.attempts, record.replica, record.status) == (1, 2, "far", "complete")
        assert (record.alias, record.cost) == ("local", cost(PROMPT_TOKENS, 2, 3))
    await failing.stop()


async def test_where_no_provider_answers_for_an_engine_on_the_older_route_the_engines_error_stands(
    engine: FakeEngine, tmp_path: Path
) -> None:
    async with house(engine, configured(tmp_path, engine)) as home, home.client() as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.completions.create(model="local", prompt="x")
        assert (caught.value.code, engine.requests) == ("engine_unavailable", [])


@pytest.mark.parametrize("failing", [{"status": 429}, {"status": 401}, {"status": 500}])
async def test_an_engine_answers_for_a_provider_that_cannot(
    engine: FakeEngine, tmp_path: Path, failing: dict[str, int]
) -> None:
    spare = FakeEngine()
    await spare.start()

    async def refusing(_engine: FakeEngine, _request: web.Request, _body: dict[str, Any]) -> web.StreamResponse:
        return web.json_response({"error": {"message": "no"}}, **failing)

    engine.answer = refusing
    text = configured(tmp_path, engine, spare.url, model=", fallbacks: [local]")
    async with house(engine, text) as home:
        await ask(home)
        assert (home.final().replica, home.final().attempts, home.final().alias) == ("small-0", 2, "plain")
        home.worker.routes.retries = RetryBudget(0, most=0)
        await ask(home)
        assert len(spare.chats()) == 2
    await spare.stop()


async def test_a_slow_reader_holds_the_provider_back_and_fills_no_memory(engine: FakeEngine, tmp_path: Path) -> None:
    sent = 0

    async def endless(_engine: FakeEngine, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        while sent < 400:
            await response.write(chunk(request, body, {"content": "x" * 100_000}))
            sent += 1
        return response

    engine.answer = endless
    limits = {"gateway": "send_timeout: 1s", "policy": 'payload: "off"'}
    async with house(engine, configured(tmp_path, engine, **limits)) as home:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(home.url.rsplit(":", 1)[1]), limit=1)
        body = json.dumps({"model": "plain", "messages": ASK, "stream": True})
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {home.secret}\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        await until(lambda: any(record.status == "aborted" for record in home.invocations()))
        await until(lambda: engine.aborts == 1)
        assert sent < 300, "the provider was held back while nobody read"
        writer.transport.abort()
        assert reader is not None


async def test_a_drain_lets_the_answer_of_a_provider_finish(home: House) -> None:
    home.engine.script = Script(hold_after=2)
    answering = asyncio.create_task(stream(home))
    await until(lambda: home.engine.chats())
    home.worker.drain()
    home.engine.release.set()
    await answering
    assert home.final().status == "complete"


async def test_what_does_not_finish_in_a_drain_is_cut_and_recorded(engine: FakeEngine, tmp_path: Path) -> None:
    async with house(engine, configured(tmp_path, engine)) as home:
        engine.script = Script(hold_after=2)
        answering = asyncio.create_task(stream(home))
        await until(lambda: home.invocations())
        home.worker.cut()
        with pytest.raises(openai.APIError) as caught:
            await answering
        assert caught.value.code == "shutting_down"
        assert home.final().status == "interrupted"
        await until(lambda: engine.aborts == 1)
