# SPDX-License-Identifier: Apache-2.0
"""What the official client sees, and whether the record says the same, in each way a request can end."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import openai
import pytest

from contract.prices import add, latest
from contract.records import Status
from tests.gateway.asking import TEXT, ask, cost, said, stream, text_of
from tests.gateway.engine import PROMPT_TOKENS, FakeEngine, Script
from tests.gateway.house import ASK, House, house, settings, until

BOTH_WAYS = True


async def test_a_plain_answer_is_what_its_record_says(home: House) -> None:
    async with home.client() as client:
        raw = await client.chat.completions.with_raw_response.create(
            model="plain", messages=ASK, temperature=0.5, user="u1", metadata={"conversation": "c1", "shop": "7"}
        )
    answer, record = raw.parse(), home.final()
    assert answer.usage is not None and answer.usage.prompt_tokens_details is not None
    assert (answer.model, answer.choices[0].message.content) == ("plain", TEXT)
    assert (answer.id, raw.headers["x-request-id"]) == (f"chatcmpl-{record.id}", record.id)
    assert (record.status, record.http_status, record.stream, record.error_code) == ("complete", 200, False, None)
    assert (record.alias, record.version, record.replica, record.attempts) == ("plain", "base", "small-0", 1)
    assert (record.prompt_tokens, record.completion_tokens) == (answer.usage.prompt_tokens, 3)
    assert record.cached_tokens == answer.usage.prompt_tokens_details.cached_tokens == 2
    assert (record.usage_source, record.cost) == ("reported", cost(PROMPT_TOKENS, 2, 3))
    assert raw.headers["x-millrace-cost"] == f"{record.cost / 10**9:.9f}"
    assert raw.headers["x-millrace-model-version"] == "base"
    assert int(raw.headers["openai-processing-ms"]) >= 0
    assert (record.user, record.conversation) == ("u1", "c1")
    assert json.loads(record.metadata or "") == {"conversation": "c1", "shop": "7"}
    assert json.loads(record.parameters or "") == {"temperature": 0.5}
    assert json.loads(record.messages or "") == ASK
    assert (said(record), record.finish_reasons) == (TEXT, ["stop"])
    with home.worker.database.connect() as connection:
        price = latest(connection, "plain")
    assert price is not None and record.price_version == price.id
    times = (record.queue_ns, record.first_byte_ns, record.total_ns, record.overhead_ns)
    assert all(time is not None and time > 0 for time in times)


async def test_a_stream_is_what_its_record_says(home: House) -> None:
    chunks = await stream(home, n=1)
    opened, record = home.invocations()
    assert text_of(chunks) == said(record) == TEXT
    assert {chunk.model for chunk in chunks} == {"plain"}
    assert {chunk.id for chunk in chunks} == {f"chatcmpl-{record.id}"}
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)
    assert (opened.status, opened.id, opened.choices) == (Status.OPEN, record.id, None)
    assert (record.status, record.stream, record.http_status) == ("complete", True, 200)
    assert (record.prompt_tokens, record.cached_tokens, record.completion_tokens) == (PROMPT_TOKENS, 2, 3)
    assert record.cost == cost(PROMPT_TOKENS, 2, 3)


@pytest.mark.parametrize("usage", ["running", "end", "last"])
async def test_a_client_that_asks_gets_usage_once_at_the_end(home: House, usage: str) -> None:
    home.engine.script = Script(usage=usage)
    chunks = await stream(home, stream_options={"include_usage": True})
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    told, record = chunks[-1].usage, home.final()
    assert told is not None and chunks[-1].choices == []
    assert (told.prompt_tokens, told.completion_tokens) == (record.prompt_tokens, record.completion_tokens) == (7, 3)
    assert told.prompt_tokens_details is not None
    assert told.prompt_tokens_details.cached_tokens == record.cached_tokens == 2
    assert record.cost is not None
    assert [(chunk.model_extra or {}).get("x_millrace_cost") for chunk in chunks] == [
        *[None] * (len(chunks) - 1), f"{record.cost / 10**9:.9f}",
    ]  # fmt: skip


@pytest.mark.parametrize("usage", ["running", "end", "last"])
async def test_several_choices_are_counted_whole(home: House, usage: str) -> None:
    home.engine.script = Script(n=3, usage=usage)
    await stream(home, n=3)
    record = home.final()
    assert (record.prompt_tokens, record.completion_tokens) == (PROMPT_TOKENS, 9)
    assert record.finish_reasons == ["stop"] * 3


async def test_the_engine_gets_our_names_and_nothing_of_the_client(home: House) -> None:
    headers = {"X-Vllm-Priority": "1", "X-Session-ID": "s", "X-data-parallel-rank": "1", "X-Request-Id": "mine"}
    async with home.client(default_headers=headers) as client:
        await client.chat.completions.create(model="plain", messages=ASK, user="u1", extra_body={"top_k": 5})
    (body,), (sent,) = home.engine.chats(), home.engine.headers
    assert set(body) == {"model", "messages", "cache_salt", "top_k", "max_completion_tokens"}
    assert body["model"] == "base"
    assert sent["x-request-id"] == home.final().id
    assert {"authorization", "x-vllm-priority", "x-session-id", "x-data-parallel-rank"}.isdisjoint(sent)


@pytest.mark.parametrize(("context", "sent"), [(None, 4096), (8192, 4096), (4096, None), (2048, None)])
async def test_a_request_without_a_bound_gets_the_cap_where_the_engine_takes_it(
    engine: FakeEngine, tmp_path: Path, context: int | None, sent: int | None
) -> None:
    engine.context = context
    async with house(engine, settings(tmp_path, engine.url)) as home:
        await ask(home)
        await ask(home, max_tokens=5)
    assert [body.get("max_completion_tokens") for body in engine.chats()] == [sent, None]
    assert engine.chats()[1]["max_tokens"] == 5


async def test_a_slow_client_and_a_keep_alive_connection_reuse_one_engine_connection(home: House) -> None:
    ports = set()
    serve = home.engine.answer

    async def noting(engine: FakeEngine, request: Any, body: dict[str, Any]) -> Any:
        ports.add(request.transport.get_extra_info("peername")[1])
        return await serve(engine, request, body)

    home.engine.answer = noting
    for _ in range(3):
        await stream(home)
        await ask(home)
    # The look at /v1/models may hold another connection at times, so two are possible; six would be one each.
    assert len(ports) <= 2


async def test_the_typed_errors_of_the_official_client(home: House) -> None:
    async with home.client(api_key="mr-wrong") as client:
        with pytest.raises(openai.AuthenticationError) as wrong_key:
            await client.chat.completions.create(model="plain", messages=ASK)
    with pytest.raises(openai.NotFoundError) as no_model:
        await ask(home, model="nobody")
    with pytest.raises(openai.BadRequestError) as bad_value:
        await ask(home, temperature=9)
    with pytest.raises(openai.BadRequestError) as unknown:
        await ask(home, extra_body={"chat_template": "x"})
    found = [
        (caught.value.status_code, caught.value.code, caught.value.param, caught.value.type)
        for caught in (wrong_key, no_model, bad_value, unknown)
    ]
    assert found == [
        (401, "invalid_api_key", None, "authentication_error"),
        (404, "model_not_found", "model", "not_found_error"),
        (400, "invalid_value", "temperature", "invalid_request_error"),
        (400, "unknown_parameter", "chat_template", "invalid_request_error"),
    ]
    records = home.invocations()
    assert [(record.status, record.http_status, record.error_code) for record in records] == [
        ("refused", 404, "model_not_found"), ("refused", 400, "invalid_value"), ("refused", 400, "unknown_parameter"),
    ]  # fmt: skip
    assert [record.alias for record in records] == ["nobody", "plain", "plain"]
    assert all(record.cost is None and record.prompt_tokens is None for record in records)
    assert home.engine.chats() == []


async def test_a_body_over_the_bound_is_413(engine: FakeEngine, tmp_path: Path) -> None:
    async with house(engine, settings(tmp_path, engine.url, gateway="max_body: 20kB")) as home:
        huge = [{"role": "user", "content": "x" * 30_000}]
        with pytest.raises(openai.APIStatusError) as caught:
            await ask(home, messages=huge)
        assert (caught.value.status_code, caught.value.code) == (413, "payload_too_large")
        assert home.final().http_status == 413


async def test_more_in_flight_than_fits_is_503_with_retry_after(engine: FakeEngine, tmp_path: Path) -> None:
    async with house(engine, settings(tmp_path, engine.url, gateway="max_concurrent: 1")) as home:
        engine.script = Script(hold_after=1)
        first = asyncio.create_task(stream(home))
        await until(lambda: engine.chats())
        with pytest.raises(openai.InternalServerError) as caught:
            await ask(home)
        assert (caught.value.status_code, caught.value.code) == (503, "overloaded")
        assert caught.value.response.headers["retry-after"] == "1"
        engine.release.set()
        await first
        await ask(home)
    assert [record.status for record in home.invocations() if record.status != "open"] == [
        "refused", "complete", "complete",
    ]  # fmt: skip


async def test_a_full_spool_refuses_before_any_upstream_byte(engine: FakeEngine, tmp_path: Path) -> None:
    async with house(engine, settings(tmp_path, engine.url, spool="1MiB")) as home:
        big = [{"role": "user", "content": "x" * 200_000}]
        with pytest.raises(openai.InternalServerError) as caught:
            for _ in range(10):
                await ask(home, messages=big)
        assert (caught.value.status_code, caught.value.code) == (503, "storage_full")
        asked = len(engine.chats())
        with pytest.raises(openai.InternalServerError):
            await ask(home)
        assert len(engine.chats()) == asked
        assert "full (log.spool.max_bytes); no new request is taken until a logger" in home.worker.unready()[0]
        answered = [record for record in home.invocations() if record.status == "complete"]
        assert len(answered) >= 4


async def test_a_new_price_holds_for_the_next_request(home: House) -> None:
    with home.worker.database.begin() as connection:
        added = add(connection, "plain", input=10**12, cached_input=0, output=0)
    await until(lambda: home.worker.prices.at("plain", time.time_ns()).id == added.id)
    await ask(home)
    assert (home.final().cost, home.final().price_version) == ((PROMPT_TOKENS - 2) * 10**6, added.id)


@pytest.mark.parametrize("streamed", [False, True])
async def test_token_ids_and_logprobs_are_kept_and_not_shown(
    engine: FakeEngine, tmp_path: Path, streamed: bool
) -> None:
    async with house(engine, settings(tmp_path, engine.url, policy="tokens: true")) as home:
        if not streamed:
            answer = await ask(home)
            assert (answer.choices[0].logprobs, answer.model_extra) == (None, {})
            return
        chunks = await stream(home)
        record = home.final()
    assert all(chunk.choices[0].logprobs is None for chunk in chunks)
    assert all("token_ids" not in (chunk.choices[0].model_extra or {}) for chunk in chunks)
    assert all("prompt_token_ids" not in (chunk.model_extra or {}) for chunk in chunks)
    assert record.prompt_token_ids == list(range(PROMPT_TOKENS))
    assert (record.completion_token_ids, record.logprobs) == ([[101, 102, 103]], [[-0.5, -0.5, -0.5]])


async def test_with_the_payload_off_the_record_has_no_text(engine: FakeEngine, tmp_path: Path) -> None:
    async with house(engine, settings(tmp_path, engine.url, policy='payload: "off"')) as home:
        await stream(home)
        opened, record = home.invocations()
    assert (opened.messages, record.messages) == (None, None)
    assert (record.choices, record.completion_tokens) == (None, 3)


async def test_every_project_has_its_own_prefix_cache(home: House) -> None:
    salts = {project: home.worker.cache_salt(project) for project in ("default", "other")}
    await ask(home)
    assert home.engine.chats()[0]["cache_salt"] == salts["default"] != salts["other"]


async def test_the_metrics_say_what_the_record_says(home: House) -> None:
    await stream(home)
    record, page = home.final(), home.worker.metrics.page().decode()
    assert 'millrace_tokens_total{kind="prompt",model="plain"} 7.0' in page
    assert 'millrace_tokens_total{kind="completion",model="plain"} 3.0' in page
    assert record.cost is not None
    assert f'millrace_cost_usd_total{{model="plain"}} {record.cost / 10**9}' in page
    assert 'millrace_invocations_total{model="plain",status="complete"} 1.0' in page
    assert 'millrace_time_to_first_token_seconds_count{model="plain"} 1.0' in page


async def test_a_model_name_that_does_not_exist_makes_no_metric_of_its_own(home: House) -> None:
    with pytest.raises(openai.NotFoundError):
        await ask(home, model="made-up-by-a-client")
    page = home.worker.metrics.page().decode()
    assert "made-up" not in page
    assert 'millrace_invocations_total{model="unknown",status="refused"} 1.0' in page


@pytest.mark.parametrize("streamed", [False, True])
async def test_every_request_is_counted_under_its_model_on_a_new_connection_and_on_a_used_one(
    home: House, streamed: bool
) -> None:
    for _ in range(3):
        await (stream(home) if streamed else ask(home))
    with pytest.raises(openai.NotFoundError):
        await ask(home, model="nobody")
    page = home.worker.metrics.page().decode()
    route = 'route="/v1/chat/completions"'
    for sample in (
        f'millrace_requests_total{{model="plain",{route},status="200"}} 3.0',
        f'millrace_requests_total{{model="unknown",{route},status="404"}} 1.0',
        f'millrace_request_duration_seconds_count{{model="plain",{route}}} 3.0',
        f'millrace_overhead_seconds_count{{model="plain",{route}}} 3.0',
        'millrace_invocations_total{model="plain",status="complete"} 3.0',
        'millrace_tokens_total{kind="prompt",model="plain"} 21.0',
    ):
        name, labels = sample.split("{")
        wanted = (name, sorted(labels.split("}")[0].split(",")), sample.split()[-1])
        assert wanted in [
            (line.split("{")[0], sorted(line.split("{")[1].split("}")[0].split(",")), line.split()[-1])
            for line in page.splitlines()
            if "{" in line
        ], sample
