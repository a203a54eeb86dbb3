# SPDX-License-Identifier: Apache-2.0
"""A provider that answers for an engine, and an engine that answers for a provider."""

from pathlib import Path
from typing import Any

import openai
import pytest
from aiohttp import web

from gateway.replicas import RetryBudget
from tests.gateway.asking import ask, cost, stream
from tests.gateway.engine import PROMPT_TOKENS, FakeEngine, error
from tests.gateway.house import house, until
from tests.gateway.provided import configured

pytestmark = pytest.mark.usefixtures("provider_key")


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
