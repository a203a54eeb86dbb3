# SPDX-License-Identifier: Apache-2.0
"""How a request may end, whether an engine answers it, on a new connection or at once, or a provider, in either way."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import openai
import pytest

from tests.gateway.asking import ask, said, stream
from tests.gateway.engine import FakeEngine, Script
from tests.gateway.house import ASK, House, house, settings, until, warm_up
from tests.gateway.provided import KINDS, configured

pytestmark = pytest.mark.usefixtures("provider_key")


@pytest.fixture(params=["connected", "at once", *KINDS])
async def home(engine: FakeEngine, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[House]:
    """A gateway over an engine or over a provider: `home.engine` is either."""
    provided = request.param in KINDS
    said_so = configured(tmp_path, engine, kind=request.param) if provided else settings(tmp_path, engine.url)
    async with house(engine, said_so) as running:
        if request.param == "at once":
            await warm_up(running)
        yield running


@pytest.mark.parametrize("streamed", [False, True])
async def test_absent_usage_is_estimated_and_said_so(home: House, streamed: bool) -> None:
    home.engine.script = Script(usage="none")
    await (stream if streamed else ask)(home)
    record = home.final()
    assert (record.status, record.usage_source) == ("complete", "estimated")
    assert record.prompt_tokens is not None and record.prompt_tokens > 0
    assert record.completion_tokens == 3
    assert record.cached_tokens is record.reasoning_tokens is None


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_hang_up_before_any_answer_ends_the_call_and_is_estimated(home: House, streamed: bool) -> None:
    home.engine.script = Script(hold_after=0)
    waiting = asyncio.create_task(ask(home, stream=streamed))
    await until(lambda: home.engine.chats())
    waiting.cancel()
    await until(lambda: home.invocations() and home.engine.aborts == 1)
    record = home.final()
    assert (record.status, record.http_status, record.usage_source) == ("aborted", None, "estimated")
    assert record.completion_tokens == 0


@pytest.mark.parametrize("event", range(1, 5))
async def test_an_answer_that_breaks_off_is_an_error_inside_it_and_free(home: House, event: int) -> None:
    home.engine.script = Script(die_after=event)
    received = ""
    with pytest.raises(openai.APIError) as caught:
        async with home.client() as client:
            answer = await client.chat.completions.create(model="plain", messages=ASK, stream=True)
            async for chunk in answer:
                received += chunk.choices[0].delta.content or ""
    assert caught.value.code == "engine_error"
    record = home.final()
    assert (record.status, record.http_status, record.error_code, record.cost) == ("failed", 200, "engine_error", 0)
    assert received == said(record)
    told = "estimated" if record.replica == "far" else "reported"  # a provider tells it at the end alone
    assert (record.completion_tokens, record.usage_source) == (event - 1, told)
