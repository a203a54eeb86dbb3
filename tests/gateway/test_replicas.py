# SPDX-License-Identifier: Apache-2.0
"""Which replica gets a request, and what a gateway learns from the answers it gets."""

import asyncio
import collections
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from aiohttp import web

from contract.errors import EngineFailed, EngineUnavailable, SettingsError
from contract.settings import parse_settings
from gateway.connection import Origin
from gateway.engines import EngineClient
from gateway.replicas import STRIKES, Replica, RetryBudget, choose
from gateway.upstream import NoConnection
from tests.gateway.engine import FakeEngine, Script, error, whole_or_streamed
from tests.gateway.house import House, house, until


def replicas(*outstanding: int) -> list[Replica]:
    client: Any = EngineClient.__new__(EngineClient)
    return [
        Replica(f"e-{number}", client, Origin("h", 1, False, ""), frozenset({"m"}), healthy=True, outstanding=work)
        for number, work in enumerate(outstanding)
    ]


def chosen(found: list[Replica], key: bytes, now: float = 0.0, tried: tuple[Replica, ...] = ()) -> str | None:
    replica = choose(found, "m", tried, lambda: key, now)
    return None if replica is None else replica.name


def test_the_same_beginning_goes_to_the_same_replica_and_beginnings_are_spread() -> None:
    found = replicas(0, 0, 0)
    spread = collections.Counter(chosen(found, b"prompt %d" % number) for number in range(3000))
    assert all(800 < spread[replica.name] < 1200 for replica in found)
    assert {chosen(found, b"prompt 7") for _ in range(10)} == {chosen(found, b"prompt 7")}
    # Where one goes away, only its share moves.
    moved = [
        number for number in range(1000)
        if chosen(found, b"%d" % number) != chosen(found[:2], b"%d" % number) and chosen(found, b"%d" % number) != "e-2"
    ]  # fmt: skip
    assert moved == []


def test_a_replica_with_clearly_more_work_is_passed_over() -> None:
    found = replicas(0, 0)
    key = next(b"%d" % number for number in range(100) if chosen(found, b"%d" % number) == "e-0")
    found[0].outstanding = 4
    assert chosen(found, key) == "e-0"
    found[0].outstanding = 5
    assert chosen(found, key) == "e-1"
    found[1].outstanding = 1
    assert chosen(found, key) == "e-0"


def test_only_a_healthy_replica_that_holds_the_version_is_chosen() -> None:
    found = replicas(0, 0, 0, 0)
    found[0].healthy, found[1].served = False, frozenset({"other"})
    assert {chosen(found, b"%d" % number, tried=(found[2],)) for number in range(50)} == {"e-3"}
    assert chosen(found[:2], b"x") is None


def test_one_that_fails_in_a_row_gets_nothing_for_a_while_unless_there_is_no_other() -> None:
    found = replicas(0, 0)
    for _ in range(STRIKES):
        found[0].failed(EngineFailed("x"), now=100.0)
    assert {chosen(found, b"%d" % number, now=100.5) for number in range(50)} == {"e-1"}
    assert {chosen(found, b"%d" % number, now=101.5) for number in range(50)} == {"e-0", "e-1"}
    found[0].failed(EngineFailed("x"), now=102.0)
    assert chosen(found[:1], b"x", now=103.5) == "e-0"
    assert {chosen(found, b"%d" % number, now=103.5) for number in range(50)} == {"e-1"}
    found[0].answered()
    assert {chosen(found, b"%d" % number, now=103.5) for number in range(50)} == {"e-0", "e-1"}


def test_one_that_has_failed_for_ages_is_tried_again_all_the_same() -> None:
    found = replicas(0, 0)
    for _ in range(2000):
        found[0].failed(EngineFailed("x"), 100.0)
    assert 100.0 < found[0].benched_until <= 130.0


def test_an_engine_without_room_has_not_failed_and_one_not_reached_waits_to_be_seen() -> None:
    (replica,) = replicas(0)
    for _ in range(10):
        replica.failed(EngineUnavailable("full"), now=0.0)
    assert (replica.healthy, replica.strikes) == (True, 0)
    replica.failed(NoConnection("gone"), now=0.0)
    assert not replica.healthy


def test_retries_are_a_share_of_the_requests() -> None:
    budget = RetryBudget(share=0.2, most=2)
    assert [budget.spend() for _ in range(3)] == [True, True, False]
    for _ in range(5):
        budget.earn()
    assert [budget.spend(), budget.spend()] == [True, False]


SETTINGS = """
data_dir: {folder}
gateway: {{port: 0, drain_timeout: 5s, retry_share: {share}}}
engines:
  - {{name: small, base_model: base, url: ["{first}", "{second}"]}}
  - {{name: spare, base_model: base, url: "{third}"}}
models:
  plain: {{engine: small, price: {{input: 1, output: 1}}, fallbacks: [{fallbacks}], max_concurrent: 2, max_queue: 1}}
  twin: {{engine: small, price: {{input: 1, output: 1}}}}
  cheap: {{engine: spare, price: {{input: 3, output: 3}}}}
"""


@contextlib.asynccontextmanager
async def engines(
    folder: Path, share: float = 1.0, fallbacks: str = "cheap"
) -> AsyncIterator[tuple[House, list[FakeEngine]]]:
    found = [FakeEngine() for _ in range(3)]
    for engine in found:
        await engine.start()
    first, second, third = (engine.url for engine in found)
    text = SETTINGS.format(folder=folder, share=share, fallbacks=fallbacks, first=first, second=second, third=third)
    async with house(found[0], parse_settings(text)) as home:
        await until(lambda: all(each.healthy for several in home.worker.routes.replicas.values() for each in several))
        yield home, found
        for engine in found:
            engine.release.set()
    for engine in found:
        await engine.stop()


async def ask(home: House, content: str = "x", **fields: Any) -> Any:
    async with home.client() as client:
        return await client.chat.completions.create(
            model="plain", messages=[{"role": "user", "content": content}], **fields
        )


async def broken(_engine: FakeEngine, _request: web.Request, _body: dict[str, Any]) -> web.StreamResponse:
    return error(500, "out of memory")


async def test_both_replicas_of_an_engine_get_requests(tmp_path: Path) -> None:
    async with engines(tmp_path) as (home, (first, second, _)):
        for number in range(20):
            await ask(home, f"prompt {number}")
        assert len(first.chats()) + len(second.chats()) == 20
        assert min(len(first.chats()), len(second.chats())) > 2
        assert {record.replica for record in home.invocations()} == {"small-0", "small-1"}


@pytest.mark.parametrize("streamed", [False, True])
async def test_work_is_outstanding_from_the_request_to_the_end_of_its_answer(tmp_path: Path, streamed: bool) -> None:
    async def held(engine: FakeEngine, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await engine.release.wait()
        return await whole_or_streamed(engine, request, body)

    async with engines(tmp_path) as (home, found):
        both = home.worker.routes.replicas["small"]
        for _ in range(2):  # on a new connection, and on one that was used before
            for engine in found:
                engine.answer, engine.release = held, asyncio.Event()
            asking = asyncio.create_task(ask(home, "x", stream=streamed))
            await until(lambda: sum(replica.outstanding for replica in both) == 1)
            for engine in found:
                engine.release.set()
            answer = await asking
            if streamed:
                assert [chunk async for chunk in answer]
            await until(lambda: [replica.outstanding for replica in both] == [0, 0])


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_request_that_one_replica_fails_is_answered_by_the_other(tmp_path: Path, streamed: bool) -> None:
    async with engines(tmp_path) as (home, (first, second, _)):
        first.answer = broken
        for number in range(12):
            answer = await ask(home, f"prompt {number}", stream=streamed)
            if streamed:
                assert [chunk async for chunk in answer]
        ended = [record for record in home.invocations() if record.status != "open"]
        assert [record.status for record in ended] == ["complete"] * 12
        assert {record.replica for record in ended} == {"small-1"}
        assert len(second.chats()) == 12
        assert len(first.chats()) == STRIKES, "by then it is known"
        assert sum(record.attempts for record in ended) == 12 + STRIKES


async def attempts_of(home: House, number: int) -> tuple[list[str], int]:
    """How so many requests ended, and how many of them were sent to the engine of `plain`."""
    for count in range(number):
        with contextlib.suppress(openai.InternalServerError):
            await ask(home, f"prompt {count}")
    ended = [record for record in home.invocations() if record.status != "open"]
    answered = sum(record.replica == "spare-0" for record in ended)
    return [record.status for record in ended], sum(record.attempts for record in ended) - answered


async def test_in_an_outage_a_fallback_on_another_engine_answers_every_request(tmp_path: Path) -> None:
    async with engines(tmp_path, share=0.2) as (home, (first, second, third)):
        for engine in (first, second):
            engine.answer = broken
        statuses, sent = await attempts_of(home, 100)
        assert (statuses, len(third.chats())) == (["complete"] * 100, 100)
        # Each was sent once to the engine that fails, and again as often as the budget allows: 20, and a share.
        assert len(first.chats()) + len(second.chats()) == sent
        assert 100 + 20 <= sent <= 100 + 20 + 0.2 * 100


async def test_a_fallback_answers_every_request_for_an_engine_that_is_gone(tmp_path: Path) -> None:
    async with engines(tmp_path, share=0) as (home, (first, second, third)):
        await first.stop()
        await second.stop()
        statuses, _ = await attempts_of(home, 100)
        assert (statuses, len(third.chats())) == (["complete"] * 100, 100)
        await first.start()
        await second.start()


@pytest.mark.parametrize(("fallbacks", "answered"), [("twin", 0), ("twin, cheap", 4)])
async def test_a_fallback_on_the_engine_that_failed_is_paid_as_a_retry(
    tmp_path: Path, fallbacks: str, answered: int
) -> None:
    async with engines(tmp_path, share=0, fallbacks=fallbacks) as (home, (first, second, third)):
        home.worker.routes.retries = RetryBudget(0, most=3)
        for engine in (first, second):
            engine.answer = broken
        statuses, sent = await attempts_of(home, 4)
        assert statuses == ["complete" if answered else "failed"] * 4
        assert (sent, len(third.chats())) == (4 + 3, answered)


async def test_without_a_budget_no_replica_of_the_engine_is_sent_it_again(tmp_path: Path) -> None:
    async with engines(tmp_path, share=0, fallbacks="") as (home, (first, second, third)):
        home.worker.routes.retries = RetryBudget(0, most=0)
        for engine in (first, second):
            engine.answer = broken
        with pytest.raises(openai.InternalServerError):
            await ask(home)
        assert (len(first.chats()) + len(second.chats()), len(third.chats())) == (1, 0)


async def test_a_fallback_answers_under_the_name_that_was_asked_for_at_its_own_price(tmp_path: Path) -> None:
    async with engines(tmp_path) as (home, (first, second, third)):
        for engine in (first, second):
            engine.answer = broken
        answer = await ask(home)
        record = home.final()
        assert (answer.model, record.alias, record.version, record.replica) == ("plain", "plain", "base", "spare-0")
        assert (record.status, record.attempts, len(third.chats())) == ("complete", 3, 1)
        assert record.cost == 3 * 1000 * (record.prompt_tokens or 0) + 3 * 1000 * (record.completion_tokens or 0)


async def test_a_request_that_is_at_fault_itself_is_sent_once(tmp_path: Path) -> None:
    async def picky(_engine: FakeEngine, _request: web.Request, _body: dict[str, Any]) -> web.StreamResponse:
        return error(400, "too long")

    async with engines(tmp_path) as (home, found):
        for engine in found:
            engine.answer = picky
        with pytest.raises(openai.BadRequestError):
            await ask(home)
        assert sum(len(engine.chats()) for engine in found) == 1


async def test_a_stream_that_has_begun_is_not_sent_again(tmp_path: Path) -> None:
    async with engines(tmp_path) as (home, found):
        for engine in found:
            engine.script = Script(die_after=2)
        with pytest.raises(openai.APIError):
            async for _ in await ask(home, stream=True):
                pass
        assert sum(len(engine.chats()) for engine in found) == 1


async def two_inside_and_one_waiting(
    home: House, found: list[FakeEngine]
) -> tuple[list[asyncio.Task[Any]], asyncio.Task[Any]]:
    """Three requests to a model with two places, whose engines hold their answers back."""
    for engine in found:
        engine.script = Script(hold_after=0)
    inside = [asyncio.create_task(ask(home)) for _ in range(2)]
    await until(lambda: sum(len(engine.chats()) for engine in found) == 2)
    waiting = asyncio.create_task(ask(home))
    await until(lambda: home.worker.limits.gates["plain"].queued == 1)
    return inside, waiting


async def test_a_model_with_a_bound_has_a_queue_with_an_end(tmp_path: Path) -> None:
    async with engines(tmp_path) as (home, found):
        inside, waiting = await two_inside_and_one_waiting(home, found)
        with pytest.raises(openai.InternalServerError) as caught:
            await ask(home)
        assert (caught.value.status_code, caught.value.code) == (503, "overloaded")
        page = home.worker.metrics.page().decode()
        assert 'millrace_queued_requests{model="plain"} 1.0' in page
        assert sum(len(engine.chats()) for engine in found) == 2
        for engine in found:
            engine.release.set()
        await asyncio.gather(*inside, waiting)
        assert home.worker.limits.gates["plain"].queued == 0


async def test_a_client_that_hangs_up_in_the_queue_costs_nothing(tmp_path: Path) -> None:
    async with engines(tmp_path) as (home, found):
        inside, waiting = await two_inside_and_one_waiting(home, found)
        waiting.cancel()
        await until(lambda: [record.status for record in home.invocations()] == ["aborted"])
        assert (home.final().attempts, home.final().cost) == (0, None)
        for engine in found:
            engine.release.set()
        await asyncio.gather(*inside)


@pytest.mark.parametrize(
    ("models", "location"),
    [("a: {{{common}, fallbacks: [nobody]}}", "nobody"), ("a: {{{common}, fallbacks: [a]}}", "'a'")],
)
def test_a_fallback_must_be_another_model(models: str, location: str) -> None:
    common = "engine: e, price: {input: 1, output: 1}"
    with pytest.raises(SettingsError, match=location):
        parse_settings(
            "engines: [{name: e, base_model: b, url: 'http://x'}]\nmodels: {" + models.format(common=common) + "}"
        )
