# SPDX-License-Identifier: Apache-2.0
"""What a provider refuses, and what is refused before one is asked."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from aiohttp import web

from tests.gateway.asking import ask
from tests.gateway.engine import FakeEngine
from tests.gateway.house import House, house
from tests.gateway.provided import KEY, KINDS, configured

pytestmark = pytest.mark.usefixtures("provider_key")


@pytest.fixture(params=KINDS)
async def home(engine: FakeEngine, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[House]:
    """A gateway whose model `plain` is a provider's: `home.engine` is that provider."""
    async with house(engine, configured(tmp_path, engine, kind=request.param)) as running:
        yield running


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
