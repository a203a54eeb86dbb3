# SPDX-License-Identifier: Apache-2.0
"""What a client of a limited key sees, and what is granted to its gateway."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
import sqlalchemy as sa

from contract.database import grants
from contract.money import NANO
from gateway.allowance import lasting
from gateway.bank import set_limits
from gateway.estimate import PER_MESSAGE, PER_PROMPT
from gateway.quota import Dimension
from tests.gateway.engine import PROMPT_TOKENS, FakeEngine, error
from tests.gateway.house import ASK, House, house, settings, until, warm_up

BOTH_WAYS = True
PROMPT_BYTES = len('[{"role":"user","content":"Is it good?"}]')
MOST_READ = PROMPT_BYTES + len('{"max_completion_tokens":10}') + PER_PROMPT + PER_MESSAGE
"""Tokens of the prompt of `ask`, at most."""
USED = PROMPT_TOKENS + 3


@asynccontextmanager
async def limited(
    engine: FakeEngine, folder: Path, warm: bool, kind: str = "key", **amounts: int
) -> AsyncIterator[House]:
    """A gateway whose key or project has limits, at the beginning of a minute that does not end."""
    async with house(engine, settings(folder, engine.url, gateway="limits_timeout: 60s")) as home:
        home.worker.allowance._wall = lambda: 1_700_000_040 * NANO
        await limit(home, kind, **amounts)
        if warm:
            await warm_up(home)
        yield home


async def limit(home: House, kind: str = "key", **amounts: int) -> None:
    """Sets limits, and waits until the worker has heard of them."""
    ring = home.worker.keys
    with home.worker.database.begin() as connection:
        subject = next(iter(ring._by_digest.values())).id if kind == "key" else "default"
        set_limits(connection, kind, subject, {Dimension(name): amount for name, amount in amounts.items()})
    await until(lambda: home.worker.keys is not ring)


@asynccontextmanager
async def asked(home: House, **fields: Any) -> AsyncIterator[Any]:
    async with home.client() as client:
        request = {"model": "plain", "messages": ASK, "max_completion_tokens": 10, **fields}
        yield await client.chat.completions.with_raw_response.create(**request)


async def ask(home: House, **fields: Any) -> Any:
    async with asked(home, **fields) as answer:
        return answer


async def read(answer: Any) -> None:
    """A stream to its end."""
    async for _ in answer.parse():
        pass


def used(home: House, name: str) -> int:
    """What the worker has reserved and settled."""
    accounts = home.worker.allowance.purse.accounts.values()
    return sum(account.used for account in accounts if account.limit.dimension == name)


async def test_a_key_without_limits_has_no_headers_of_them(home: House) -> None:
    assert not [name for name in (await ask(home)).headers if name.startswith("x-ratelimit")]


@pytest.mark.parametrize("kind", ["key", "project"])
async def test_more_requests_than_a_minute_allows_are_a_rate_limit_error(
    engine: FakeEngine, tmp_path: Path, warm: bool, kind: str
) -> None:
    async with limited(engine, tmp_path, warm, kind, requests=3) as home:
        told = [(await ask(home)).headers for _ in range(3)]
        assert [headers["x-ratelimit-limit-requests"] for headers in told] == ["3"] * 3
        assert [headers["x-ratelimit-reset-requests"] for headers in told] == ["1m0s"] * 3
        for left, headers in zip((2, 1, 0), told, strict=True):
            assert 0 <= int(headers["x-ratelimit-remaining-requests"]) <= left
            assert "x-ratelimit-limit-tokens" not in headers
        with pytest.raises(openai.RateLimitError) as caught:
            await ask(home)
        body, headers = caught.value.body, caught.value.response.headers
        assert isinstance(body, dict)
        assert (body["type"], body["code"]) == ("rate_limit_error", "rate_limit_exceeded")
        assert f"the limit of this {kind}, 3 requests a minute, is used up" in body["message"]
        assert (headers["retry-after"], headers["x-ratelimit-remaining-requests"]) == ("60", "0")
        assert len(engine.requests) == 3
        record = [record for record in home.invocations() if record.status != "open"][-1]
        assert (record.status, record.http_status, record.error_code) == ("refused", 429, "rate_limit_exceeded")


@pytest.mark.parametrize("streamed", [False, True])
async def test_tokens_are_reserved_by_the_most_and_settled_by_the_real_use(
    engine: FakeEngine, tmp_path: Path, warm: bool, streamed: bool
) -> None:
    async with limited(engine, tmp_path, warm, tokens=100_000) as home:
        engine.script.hold_after = 1 if streamed else None
        async with asked(home, stream=streamed) as answer:
            assert "x-ratelimit-remaining-tokens" in answer.headers
            if streamed:
                assert used(home, "tokens") == MOST_READ + 10
                engine.release.set()
                await read(answer)
        await until(lambda: used(home, "tokens") == USED)


@pytest.mark.parametrize(
    "fields", [{"max_tokens": 900}, {"max_completion_tokens": 900}, {"n": 16, "max_tokens": 50}, {}]
)
async def test_a_request_that_could_use_more_than_the_limit_is_told_so(
    engine: FakeEngine, tmp_path: Path, warm: bool, fields: dict[str, Any]
) -> None:
    async with limited(engine, tmp_path, warm, tokens=800) as home:
        async with home.client() as client:
            with pytest.raises(openai.BadRequestError) as caught:
                await client.chat.completions.create(model="plain", messages=ASK, **fields)
        body = caught.value.body
        assert isinstance(body, dict)
        assert (body["code"], body["param"]) == ("request_over_limit", "max_completion_tokens")
        assert "800 tokens a minute" in body["message"]
        assert "x-ratelimit-limit-tokens" in caught.value.response.headers
        assert engine.requests == []


async def test_a_request_that_the_engine_fails_gives_its_tokens_back(
    engine: FakeEngine, tmp_path: Path, warm: bool
) -> None:
    async with limited(engine, tmp_path, warm, tokens=100_000, requests=100) as home:

        async def refuses(*_: Any) -> Any:
            return error(400, "no")

        engine.answer = refuses
        with pytest.raises(openai.BadRequestError):
            await ask(home)
        assert (used(home, "tokens"), used(home, "requests")) == (0, 1)
        with pytest.raises(openai.NotFoundError):
            await ask(home, model="nobody")
        assert used(home, "requests") == 1


async def test_no_more_requests_are_in_flight_than_the_limit(engine: FakeEngine, tmp_path: Path, warm: bool) -> None:
    async with limited(engine, tmp_path, warm, concurrent=2) as home:
        home.worker.allowance._timeout = 0.2
        engine.script.hold_after = 1
        async with asked(home, stream=True) as one, asked(home, stream=True) as other:
            with pytest.raises(openai.RateLimitError, match="2 requests at once"):
                await ask(home)
            assert used(home, "concurrent") == 2
            engine.release.set()
            await read(one)
            await read(other)
        await until(lambda: used(home, "concurrent") == 0)
        home.worker.allowance._timeout = 60
        await ask(home)


async def test_a_budget_that_is_used_up_is_an_insufficient_quota(
    engine: FakeEngine, tmp_path: Path, warm: bool
) -> None:
    # One request can cost MOST_READ * 500 + 10 * 2000 nano-dollars, and costs less.
    most = MOST_READ * 500 + 10 * 2000
    async with limited(engine, tmp_path, warm, month=most + 5_000) as home:
        cost = (5 * 500 + 2 * 100) + 3 * 2000
        await ask(home)
        await until(lambda: used(home, "month") == cost)
        with pytest.raises(openai.RateLimitError) as caught:
            await ask(home)
        body = caught.value.body
        assert isinstance(body, dict)
        assert (body["type"], body["code"]) == ("insufficient_quota", "insufficient_quota")
        assert int(caught.value.response.headers["retry-after"]) == 17 * 86_400 - (22 * 3600 + 14 * 60)


async def test_a_database_that_does_not_answer_lets_nobody_through(
    engine: FakeEngine, tmp_path: Path, warm: bool
) -> None:
    async with limited(engine, tmp_path, warm, requests=100) as home:
        home.worker.allowance._timeout = 0.05
        blocker = home.worker.database.connect()
        with blocker.begin():
            with pytest.raises(openai.InternalServerError) as caught:
                await ask(home)
            assert caught.value.status_code == 503
            assert caught.value.body["code"] == "limits_unknown"
        blocker.close()
        home.worker.allowance._timeout = 60
        await ask(home)


async def test_a_limit_that_is_taken_away_holds_nobody_back(engine: FakeEngine, tmp_path: Path, warm: bool) -> None:
    async with limited(engine, tmp_path, warm, requests=1) as home:
        await ask(home)
        await limit(home, requests=0)
        assert "x-ratelimit-limit-requests" not in (await ask(home)).headers


async def test_what_is_not_used_goes_back_when_the_worker_ends(engine: FakeEngine, tmp_path: Path, warm: bool) -> None:
    async with limited(engine, tmp_path, warm, tokens=100_000, concurrent=5) as home:
        await ask(home)
        database = sa.create_engine(home.settings.database_url)
    with database.connect() as connection:
        rows = {row.dimension: row.held for row in connection.execute(grants.select())}
    database.dispose()
    assert rows == {"tokens": USED}


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [(0, "0ms"), (1, "1ms"), (12 * 10**6, "12ms"), (NANO, "1s"), (NANO + 1, "2s"), (360 * NANO, "6m0s"), (-5, "0ms")],
)
def test_times_are_spelled_as_openai_does(nanoseconds: int, text: str) -> None:
    assert lasting(nanoseconds) == text
