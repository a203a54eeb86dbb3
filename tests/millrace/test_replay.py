# SPDX-License-Identifier: Apache-2.0
"""Replays through a real gateway and a real log, over a scripted engine; and a log that is followed."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from contract.errors import Overloaded
from contract.records import Record
from contract.settings import SpoolSettings
from logger.client import LoggerClient, Page, Row
from logger.spool import Spool, claim_producer
from logger.store import Store
from millrace import replaying
from millrace.cli import app
from millrace.commands.logs import follow_log
from millrace.replaying import Counts, Pair, plan, replay
from tests.gateway.engine import FakeEngine
from tests.gateway.house import House, house, settings, until
from tests.gateway.logged import free_port, logger_of
from tests.logger.records import invocation


@pytest.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    fake = FakeEngine()
    await fake.start()
    yield fake
    await fake.stop()


class Both:
    """A gateway and its log."""

    def __init__(self, home: House, store: Store, log: LoggerClient) -> None:
        self.home, self.store, self.log = home, store, log

    async def ask(self, count: int) -> None:
        """Some chats and one completion, once they are in the log."""
        async with self.home.client() as client:
            for n in range(count):
                await client.chat.completions.create(
                    model="plain", messages=[{"role": "user", "content": f"question {n}"}], temperature=0.5,
                    max_tokens=9, metadata={"conversation": "talk", "team": "a"}, user="someone",
                )  # fmt: skip
            await client.completions.create(model="plain", prompt="Once", max_tokens=3)
        await self.has(count + 1)

    async def put(self, *records: Record) -> None:
        """These in the log."""
        producer = claim_producer(self.home.settings.installation.spool, "test")
        spool, rows = Spool(producer, SpoolSettings()), self.store.cursor
        spool.append_many(records)
        spool.close()
        producer.release()
        await self.has(rows + len(records))

    async def has(self, rows: int) -> None:
        """Returns once the log has so many rows."""
        await until(lambda: self.store.cursor >= rows)

    async def again(self, wanted: dict[str, Any], limit: int = 100) -> tuple[Counts, list[Pair]]:
        """Replays to the model triage."""
        counts, pairs = Counts(), list[Pair]()
        async with self.home.client() as client:
            await replay(plan(self.log, wanted, limit, counts), "triage", client, 2, pairs.append)
        return counts, pairs


@pytest.fixture
async def both(engine: FakeEngine, tmp_path: Path) -> AsyncIterator[Both]:
    configured = settings(tmp_path, engine.url, log_port=free_port())
    token = configured.installation.token("logger")
    async with (
        house(engine, configured) as home,
        logger_of(configured, batch_delay=0.02) as store,
        LoggerClient(configured.log.url, token) as log,
    ):
        yield Both(home, store, log)


async def test_a_replay_asks_the_same_and_shows_both_answers(both: Both, engine: FakeEngine) -> None:
    await both.ask(3)
    asked = {json.dumps(request.get("messages", request.get("prompt"))) for request in engine.requests}
    engine.requests.clear()
    engine.script.words = ["other ", "words"]
    counts, pairs = await both.again({"alias": "plain"})
    assert counts.requests == 4 and len(pairs) == 4 and {pair.error for pair in pairs} == {None}
    assert {(pair.then.text, pair.now.text if pair.now else None, pair.same) for pair in pairs} == {
        ("one two three", "other words", False)
    }
    assert {json.dumps(request.get("messages", request.get("prompt"))) for request in engine.requests} == asked
    assert {request.get("temperature") for request in engine.requests if "messages" in request} == {0.5}
    await both.has(8)
    rows = (await both.log.invocations(alias="triage")).rows
    assert {row["id"] for row in rows} == {pair.now.invocation for pair in pairs if pair.now}
    chats = [row for row in rows if row["endpoint"] == "/v1/chat/completions"]
    originals = {pair.then.invocation for pair in pairs}
    assert len(chats) == 3 and {row["metadata"]["replay_of"] for row in chats} < originals
    assert {(len(row["metadata"]), row["conversation"], row["user"]) for row in chats} == {(1, None, None)}


async def test_a_replay_sends_neither_itself_nor_what_cannot_be_sent(both: Both, engine: FakeEngine) -> None:
    await both.ask(2)
    engine.requests.clear()
    await both.put(invocation("inv_bare", messages=None), invocation("inv_e", endpoint="/v1/embeddings"))
    await both.put(invocation("inv_replay", metadata='{"replay_of": "inv_x"}'))
    counts, pairs = await both.again({})
    assert (counts.requests, counts.same, len(pairs)) == (3, 0, 3) and len(engine.requests) == 3
    assert counts.skipped == {
        "the prompt was not kept": 1, "/v1/embeddings has no answer to compare": 1, "is a replay itself": 1,
    }  # fmt: skip
    counts, pairs = await both.again({"alias": "plain"}, limit=2)
    assert (counts.requests, len(pairs)) == (2, 2)


async def test_what_is_logged_meanwhile_is_not_replayed(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replaying, "PAGE", 1)
    await both.put(invocation("inv_a"), invocation("inv_b"))
    rows = plan(both.log, {}, 100, Counts())
    assert (await anext(rows))["id"] == "inv_a"
    await both.put(invocation("inv_later"))
    assert [row["id"] async for row in rows] == ["inv_b"]


async def test_what_fails_is_told_and_the_rest_goes_on(both: Both, engine: FakeEngine) -> None:
    await both.ask(2)
    await both.put(invocation("inv_odd", alias="plain", parameters='{"temperature": 99}'))
    counts, pairs = await both.again({"alias": "plain"})
    for pair in pairs:
        counts.add(pair)
    assert (counts.requests, counts.failed, counts.same) == (4, 1, 3)
    (failed,) = (pair for pair in pairs if pair.now is None)
    assert failed.then.invocation == "inv_odd" and "temperature" in str(failed.error)


async def test_no_more_are_under_way_than_asked_for(both: Both, engine: FakeEngine) -> None:
    await both.ask(4)
    engine.requests.clear()
    engine.script.hold_after = 0
    running = asyncio.create_task(both.again({"alias": "plain"}))
    await until(lambda: len(engine.requests) == 2)
    assert not running.done() and len(engine.requests) == 2
    engine.release.set()
    counts, _ = await running
    assert counts.requests == 5


async def test_the_command_counts_first_and_writes_both_answers_down(
    both: Both, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await both.ask(2)
    port = both.home.url.rpartition(":")[2]
    file = tmp_path / "millrace.yaml"
    file.write_text(
        f"data_dir: {both.home.settings.data_dir}\ngateway: {{port: {port}}}\n"
        f"log: {{port: {both.home.settings.log.port}}}\n"
    )

    async def run(*more: str) -> Any:
        arguments = ["logs", "replay", "triage", "--model", "plain", *more, "--config", str(file)]
        return await asyncio.to_thread(CliRunner().invoke, app, arguments)

    monkeypatch.delenv("MILLRACE_API_KEY", raising=False)
    counted = await run("--json")
    assert json.loads(counted.stdout) | {"prompt_tokens": 0} == {
        "requests": 3, "prompt_tokens": 0, "skipped": {}, "same": 0, "different": 0, "failed": 0, "sent": False,
    }  # fmt: skip
    assert "3 requests" in (await run()).stdout
    assert "MILLRACE_API_KEY" in str((await run("--send")).exception)
    monkeypatch.setenv("MILLRACE_API_KEY", both.home.secret)
    sent = await run("--send", "--output", str(tmp_path / "pairs.jsonl"))
    assert sent.exit_code == 0 and sent.stdout.endswith("3 sent: 3 same, 0 different, 0 failed\n"), sent.output
    pairs = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert [(pair["then"]["text"], pair["now"]["text"], pair["same"]) for pair in pairs] == [
        ("one two three", "one two three", True)
    ] * 3


async def test_a_log_is_followed_each_row_once_and_an_outage_is_waited_for(
    both: Both, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    await both.put(*(invocation(f"inv_{n}") for n in range(3)))
    seen: list[str] = []
    rounds = iter(range(5))
    ask = both.log.invocations

    async def away(*_: object, **__: object) -> Page:
        raise Overloaded("the logger does not answer", code="logger_unavailable")

    async def wait(_seconds: float) -> None:
        turn = next(rounds, None)
        if turn is None:
            raise asyncio.CancelledError
        monkeypatch.setattr(both.log, "invocations", away if turn in (1, 2) else ask)
        await both.put(invocation(f"inv_new_{turn}", alias="triage"), invocation(f"inv_{turn}", alias="another"))

    def take(rows: list[Row]) -> None:
        seen.extend(row["id"] for row in rows)

    with pytest.raises(asyncio.CancelledError):
        await follow_log(both.log, 2, {"alias": "triage"}, take, wait)  # a list of rows
    assert seen == ["inv_1", "inv_2", *(f"inv_new_{turn}" for turn in range(5))]
    assert capsys.readouterr().err.count("waiting") == 1
