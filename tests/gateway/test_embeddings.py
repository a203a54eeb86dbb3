# SPDX-License-Identifier: Apache-2.0
"""The route to vectors: its fields, its record without the vectors, and models that have none."""

import asyncio
import json
import typing
from pathlib import Path
from typing import Any

import openai
import orjson
import pytest
from aiohttp import web
from openai import OpenAI
from openai.types import embedding_create_params

from contract.errors import InvalidRequest, UnknownParameter
from contract.settings import GatewaySettings, parse_settings
from gateway.asked import Asked
from gateway.embeddings import ACCEPTED, APPLIED, EXTRAS, KEPT, OWN, REFUSED, parse_embeddings
from tests.gateway.engine import VECTOR, FakeEngine
from tests.gateway.house import ASK, House, house, settings

BOUNDS = GatewaySettings(max_messages=3)


def parsed(**fields: Any) -> Asked:
    return parse_embeddings({"model": "m", "input": "x", **fields}, BOUNDS)


@pytest.fixture
async def home(engine: FakeEngine, tmp_path: Path) -> Any:
    engine.pooling = True
    async with house(engine, settings(tmp_path, engine.url)) as running:
        yield running


def test_every_field_of_the_openai_schema_has_one_fate() -> None:
    known = [set(fate) for fate in (APPLIED, KEPT, ACCEPTED, REFUSED, OWN)]
    schema = set(typing.get_type_hints(embedding_create_params.EmbeddingCreateParams))
    assert set().union(*known) == schema
    assert sum(map(len, known)) == len(schema)
    assert not EXTRAS


@pytest.mark.parametrize("given", ["x", "", ["x", "y"], [1, 2, 3, 4], [[1], [2, 3]]])
def test_an_input_is_text_or_tokens_one_or_several(given: Any) -> None:
    assert orjson.loads(parsed(input=given).prompt) == given


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"), ({"input": []}, "input"), ({"input": [[]]}, "input[0]"),
        ({"input": [1, "x"]}, "input[1]"), ({"input": ["x", 1]}, "input[1]"), ({"input": [[1], [-1]]}, "input[1][0]"),
        ({"input": {"x": 1}}, "input"), ({"input": ["x"] * 4}, "input"), ({"input": [[1]] * 4}, "input"),
        ({"encoding_format": "bytes"}, "encoding_format"), ({"dimensions": 0}, "dimensions"),
        ({"dimensions": 2.5}, "dimensions"), ({"user": 5}, "user"), ({"model": None}, "model"),
    ],
)  # fmt: skip
def test_a_bad_value_is_named_with_its_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parsed(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    "name", ["messages", "stream", "truncate_prompt_tokens", "priority", "cache_salt", "embed_dtype"]
)
def test_the_engines_own_fields_do_not_pass(name: str) -> None:
    with pytest.raises(UnknownParameter) as caught:
        parsed(**{name: 1})
    assert caught.value.param == name


def test_nothing_that_belongs_to_sampling_is_sent_on() -> None:
    body = orjson.loads(parsed(dimensions=2, user="u").upstream("base", "salt", tokens=True, at_most=9))
    assert body == {"model": "base", "cache_salt": "salt", "input": "x", "dimensions": 2}


async def embed(home: House, **fields: Any) -> Any:
    async with home.client() as client:
        return await client.embeddings.create(**{"model": "plain", "input": "how good", **fields})


async def test_the_official_client_gets_vectors_and_the_record_does_not(home: House) -> None:
    answer, record = await embed(home, input=["how good", "it is"], user="u"), home.final()
    (body,) = home.engine.chats()
    assert body["encoding_format"] == "base64"  # as the client asks, which decodes it
    assert [item.embedding for item in answer.data] == [list(VECTOR)] * 2
    assert [item.index for item in answer.data] == [0, 1]
    assert (answer.model, answer.object) == ("plain", "list")
    assert answer.model_extra["id"] == f"embd-{record.id}"
    assert (record.endpoint, record.status, record.user) == ("/v1/embeddings", "complete", "u")
    assert json.loads(record.messages or "") == ["how good", "it is"]
    assert json.loads(record.choices or "") == []
    assert (record.prompt_tokens, record.completion_tokens, record.usage_source) == (4, 0, "reported")
    assert answer.usage.prompt_tokens == 4
    assert record.cost == 4 * 500


async def test_the_official_client_works_without_an_event_loop_too(home: House) -> None:
    def ask() -> Any:
        with OpenAI(base_url=f"{home.url}/v1", api_key=home.secret, max_retries=0) as client:
            return client.embeddings.create(model="plain", input=[5, 6, 7], dimensions=2, encoding_format="float")

    answer = await asyncio.to_thread(ask)
    assert answer.data[0].embedding == list(VECTOR[:2])
    assert home.final().prompt_tokens == 3


async def test_the_cost_is_in_the_header(home: House) -> None:
    async with home.client() as client:
        raw = await client.embeddings.with_raw_response.create(model="plain", input="a b c")
    assert raw.headers["x-millrace-cost"] == "0.000001500"
    assert raw.headers["x-request-id"] == home.final().id


async def test_without_payload_the_input_is_not_kept(engine: FakeEngine, tmp_path: Path) -> None:
    engine.pooling = True
    async with house(engine, settings(tmp_path, engine.url, policy="payload: off")) as home:
        await embed(home)
        (record,) = home.invocations()
        assert (record.messages, record.choices) == (None, None)
        assert (record.prompt_tokens, record.completion_token_ids, record.logprobs) == (2, None, None)


async def test_no_tokens_are_asked_for(engine: FakeEngine, tmp_path: Path) -> None:
    engine.pooling = True
    async with house(engine, settings(tmp_path, engine.url, policy="tokens: true")) as home:
        await embed(home)
        (record,) = home.invocations()
        assert (record.prompt_tokens, record.completion_token_ids, record.logprobs) == (2, [], [])
        assert "return_token_ids" not in engine.chats()[0]


@pytest.mark.parametrize("route", ["/v1/embeddings", "/v1/chat/completions", "/v1/completions"])
async def test_a_model_that_has_no_such_use_is_named_and_not_lost(
    engine: FakeEngine, tmp_path: Path, route: str
) -> None:
    engine.pooling = route != "/v1/embeddings"
    fields = {"/v1/embeddings": {"input": "x"}, "/v1/completions": {"prompt": "x"}}.get(route, {"messages": ASK})
    async with house(engine, settings(tmp_path, engine.url)) as home, home.client() as client:
        (replica,) = home.worker.routes.replicas["small"]
        with pytest.raises(openai.BadRequestError) as caught:
            await client.post(route.removeprefix("/v1"), body={"model": "plain", **fields}, cast_to=object)
        assert (caught.value.param, caught.value.code) == ("model", "unsupported_model")
        assert "plain" in caught.value.message and route in caught.value.message
        record = home.final()
        assert (record.status, record.http_status, record.attempts, record.cost) == ("refused", 400, 1, None)
        assert replica.holds("base")
        assert (replica.strikes, len(engine.chats())) == (0, 0)


async def test_a_fallback_answers_where_the_engine_is_gone(engine: FakeEngine, tmp_path: Path) -> None:
    engine.pooling = True
    text = f"""
    data_dir: {tmp_path}
    gateway: {{port: 0, connect_timeout: 1s}}
    engines:
      - {{name: gone, base_model: base, url: "http://127.0.0.1:9"}}
      - {{name: here, base_model: base, url: "{engine.url}"}}
    models:
      plain: {{engine: gone, fallbacks: [other], price: {{input: 1, output: 1}}}}
      other: {{engine: here, price: {{input: 3, output: 1}}}}
    """
    async with house(engine, parse_settings(text)) as home:
        answer, record = await embed(home), home.final()
        assert (answer.model, record.alias, record.replica, record.cost) == ("plain", "plain", "here-0", 2 * 3000)


async def test_an_answer_without_vectors_is_the_engines_failure(home: House) -> None:
    async def odd(_engine: FakeEngine, _request: web.Request, _body: dict[str, Any]) -> web.StreamResponse:
        return web.json_response({"id": "x", "model": "base", "choices": []})

    home.engine.answer = odd
    with pytest.raises(openai.InternalServerError) as caught:
        await embed(home)
    assert caught.value.status_code == 502
    assert home.final().status == "failed"


async def test_what_the_engine_says_against_a_request_reaches_the_client(home: House) -> None:
    async def refusing(_engine: FakeEngine, _request: web.Request, _body: dict[str, Any]) -> web.StreamResponse:
        message = (
            "Model 'base' does not support Matryoshka embeddings; dimensions must be unset (received dimensions=2)."
        )
        told = {"message": message, "type": "BadRequestError", "param": None, "code": 400}
        return web.json_response({"error": told}, status=400)

    home.engine.answer = refusing
    with pytest.raises(openai.BadRequestError) as caught:
        await embed(home, dimensions=2)
    assert "Model 'plain' does not support Matryoshka" in caught.value.message
