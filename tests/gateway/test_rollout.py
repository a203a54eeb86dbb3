# SPDX-License-Identifier: Apache-2.0
"""Versions on their way: loaded, probed, released, drained, and brought back after an engine's restart."""

import asyncio
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import openai
import pytest

from contract import registry
from contract.database import leases
from contract.errors import SettingsError
from contract.registry import State, Version
from gateway import rollout, routes
from gateway.adapters import check_declared
from gateway.rollout import REFUSALS
from tests.gateway.engine import FakeEngine, error
from tests.gateway.house import ASK, House, house, settings, until
from trainer.publish import digest_of


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout, "STEP_SECONDS", 0.05)
    monkeypatch.setattr(rollout, "DRAIN_SECONDS", 0.6)


def adapter(folder: Path, content: str = "weights") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8}')
    (folder / "adapter_model.safetensors").write_text(content)
    return folder


def publish(home: House, content: str, *, admitted: bool = True, alias: str = "triage") -> str:
    folder = adapter(home.settings.data_dir / "made" / content, content)
    gate = {"admitted": admitted, "reason": "better", "figures": {"accuracy": 0.9}}
    with home.worker.database.begin() as connection:
        version = registry.publish(
            connection, alias=alias, engine="small", base="base", digest=digest_of(folder), path=str(folder),
            manifest={"gate": gate},
        )  # fmt: skip
    return version.id


def version(home: House, identifier: str) -> Version:
    with home.worker.database.connect() as connection:
        found = registry.get(connection, identifier)
    assert found is not None
    return found


def target(home: House, alias: str = "triage") -> str | None:
    with home.worker.database.connect() as connection:
        return next(found.version for found in registry.all_aliases(connection) if found.name == alias)


async def live(home: House, identifier: str) -> None:
    await until(lambda: home.worker.routes.snapshot.aliases["triage"].version == identifier)


async def answered_by(home: House, model: str = "triage") -> str:
    async with home.client() as client:
        raw = await client.chat.completions.with_raw_response.create(model=model, messages=ASK)
    return str(raw.headers["x-millrace-model-version"])


async def test_an_admitted_version_answers_under_its_public_name(home: House) -> None:
    assert await answered_by(home) == "base"
    new = publish(home, "one")
    await live(home, new)
    assert await answered_by(home) == new
    assert home.engine.loaded == {new: str(home.settings.data_dir / "made" / "one")}
    assert [record.model for record in await listed(home)] == ["plain", "triage"]
    assert version(home, new).state is State.LIVE
    assert home.invocations()[-1].version == new
    assert home.invocations()[-1].alias == "triage"


async def listed(home: House) -> list[Any]:
    async with home.client() as client:
        return [type("Listed", (), {"model": model.id}) for model in (await client.models.list()).data]


async def test_every_decision_leaves_its_reason_and_figures(home: House) -> None:
    first = publish(home, "one")
    await live(home, first)
    second = publish(home, "two")
    await until(lambda: len(home.decisions()) == 5)
    assert version(home, first).state is State.RETIRED
    assert [(decision.action, decision.subject) for decision in home.decisions()] == [
        ("load", first), ("promote", first), ("load", second), ("promote", second), ("retire", first),
    ]  # fmt: skip
    promoted = json.loads(home.decisions()[3].figures)
    assert (promoted["previous"], promoted["accuracy"]) == ([first], 0.9)
    assert all(decision.alias == "triage" and decision.reason for decision in home.decisions())


async def test_the_old_version_drains_before_it_is_unloaded(home: House) -> None:
    first = publish(home, "one")
    await live(home, first)
    second = publish(home, "two")
    await live(home, second)
    assert version(home, first).state is State.DRAINING
    assert home.engine.unloads == []
    await until(lambda: home.engine.unloads == [first])
    await until(lambda: version(home, first).state is State.RETIRED)
    assert list(home.engine.loaded) == [second]


async def test_what_the_gate_did_not_admit_is_left_alone(home: House) -> None:
    refused = publish(home, "one", admitted=False)
    admitted = publish(home, "two")
    await live(home, admitted)
    assert version(home, refused).state is State.PUBLISHED
    assert home.engine.loads == [admitted]


async def test_an_adapter_that_the_engine_refuses_is_retired_and_no_name_moves(home: House) -> None:
    home.engine.load_error = (500, "rank 64 is greater than max_lora_rank 16")
    new = publish(home, "one")
    await until(lambda: version(home, new).state is State.RETIRED)
    assert "rank 64" in version(home, new).reason
    assert target(home) is None
    assert await answered_by(home) == "base"
    await until(home.decisions)
    (decision,) = home.decisions()
    assert (decision.action, decision.subject) == ("retire", new)
    assert "rank 64" in decision.reason


async def test_an_adapter_that_does_not_answer_its_probe_is_retired_and_unloaded(home: House) -> None:
    async def broken(_engine: FakeEngine, _request: Any, _body: Any) -> Any:
        return error(500, "nan in logits")

    home.engine.answer = broken
    new = publish(home, "one")
    await until(lambda: version(home, new).state is State.RETIRED)
    assert "nan in logits" in version(home, new).reason
    await until(lambda: not home.engine.loaded)
    assert target(home) is None


async def test_an_engine_that_is_well_again_only_just_costs_no_version_its_life(home: House) -> None:
    serve, probes = home.engine.answer, []

    async def recovering(engine: FakeEngine, request: Any, body: dict[str, Any]) -> Any:
        probes.append(body)
        return error(500, "restarting") if len(probes) < REFUSALS else await serve(engine, request, body)

    home.engine.answer = recovering
    await live(home, publish(home, "one"))
    assert len(probes) >= REFUSALS


@pytest.mark.parametrize(("status", "health"), [(429, 200), (503, 200), (500, 503)])
async def test_an_engine_that_has_no_room_or_is_not_well_costs_no_version_its_life(
    home: House, status: int, health: int
) -> None:
    home.engine.load_error, home.engine.health = (status, "busy"), health
    new = publish(home, "one")
    await until(lambda: len(home.engine.loads) >= 2)
    home.engine.load_error = None
    serve, probes = home.engine.answer, []

    async def busy(_engine: FakeEngine, _request: Any, body: dict[str, Any]) -> Any:
        probes.append(body)
        return error(status, "busy")

    home.engine.answer = busy
    await until(lambda: len(probes) >= 2)
    home.engine.answer = serve  # its health stays: a probe that has failed already may still ask for it
    await live(home, new)


async def test_a_reconciler_that_lost_its_lease_unloads_nothing(home: House, caplog: pytest.LogCaptureFixture) -> None:
    probes = []

    async def broken(_engine: FakeEngine, _request: Any, body: Any) -> Any:
        probes.append(body)
        if len(probes) == REFUSALS:
            with home.worker.database.begin() as connection:
                connection.execute(leases.update().values(holder="another", expires_ns=2**62))
        return error(500, "nan in logits")

    home.engine.answer = broken
    new = publish(home, "one")
    await until(lambda: "another process took the lease" in caplog.text)
    assert (home.engine.unloads, version(home, new).state) == ([], State.PUBLISHED)


async def test_an_engine_that_is_away_costs_no_version_its_life(home: House) -> None:
    await home.engine.stop()
    new = publish(home, "one")
    await until(lambda: not home.worker.routes.ready())
    assert version(home, new).state is State.PUBLISHED
    await home.engine.start()
    await live(home, new)


async def test_an_engine_that_restarts_gets_its_versions_back(home: House) -> None:
    new = publish(home, "one")
    await live(home, new)
    await home.engine.stop()
    await home.engine.start()
    assert home.engine.loaded == {}
    await until(lambda: new in home.engine.loaded)
    assert await answered_by(home) == new
    await until(lambda: [decision.action for decision in home.decisions()] == ["load", "promote", "load"])


async def test_a_version_that_the_engine_lost_is_503_and_never_the_base_model(home: House) -> None:
    new = publish(home, "one")
    await live(home, new)
    await answered_by(home)
    (reconciler,) = [task for task in home.worker._tasks if task.get_name() == "reconcile"]
    reconciler.cancel()
    await asyncio.wait([reconciler])
    home.engine.loaded.clear()
    async with home.client() as client:
        with pytest.raises(openai.InternalServerError, match="no replica"):
            await client.chat.completions.create(model="triage", messages=ASK)
    assert home.invocations()[-1].error_code == "engine_unavailable"


async def test_a_swap_under_load_fails_no_request_and_each_record_says_who_answered(home: House) -> None:
    publish(home, "v0")
    seen: list[tuple[str, str]] = []
    stop = asyncio.Event()

    async def keep_asking(streamed: bool) -> None:
        async with home.client() as client:
            while not stop.is_set():
                raw = await client.chat.completions.with_raw_response.create(
                    model="triage", messages=ASK, stream=streamed
                )
                if streamed:
                    async for chunk in raw.parse():
                        assert chunk.model == "triage"
                seen.append((raw.headers["x-request-id"], raw.headers["x-millrace-model-version"]))

    asking = [asyncio.create_task(keep_asking(streamed)) for streamed in (True, False, True)]
    for content in ("v1", "v2", "v3"):
        await live(home, publish(home, content))
    last = publish(home, "v4")
    await live(home, last)
    await until(lambda: len(home.engine.unloads) == 4)
    stop.set()
    await asyncio.gather(*asking)
    records = {record.id: record for record in home.invocations() if record.status != "open"}
    assert {record.status for record in records.values()} == {"complete"}
    assert {identifier: record.version for identifier, record in records.items()} == dict(seen)
    asked = zip(home.engine.headers, home.engine.requests, strict=True)
    sent = {headers["x-request-id"]: body["model"] for headers, body in asked if "x-request-id" in headers}
    assert all(sent[identifier] == record.version for identifier, record in records.items())
    assert len(Counter(record.version for record in records.values())) >= 4


async def test_a_name_that_a_stale_worker_still_uses_is_looked_up_again(
    home: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "LOOK_SECONDS", 60.0)
    first = publish(home, "one")
    await live(home, first)
    second = publish(home, "two")
    stale = home.worker.routes.snapshot
    await until(lambda: first not in home.worker.routes.snapshot.versions)
    home.worker.routes.snapshot = stale
    home.worker.routes.replicas["small"][0].served |= {first}
    assert await answered_by(home) == second
    assert home.invocations()[-1].attempts == 2


async def test_a_loaded_version_may_be_asked_for_by_its_id(home: House) -> None:
    new = publish(home, "one")
    await live(home, new)
    async with home.client() as client:
        answer = await client.chat.completions.create(model=new, messages=ASK)
    record = home.invocations()[-1]
    assert answer.model == new
    assert (record.alias, record.version) == ("triage", new)
    assert record.cost == 7 * 1000 + 3 * 3000  # at the rate of the public name


async def test_a_declared_adapter_is_copied_published_and_served(engine: FakeEngine, tmp_path: Path) -> None:
    made = adapter(tmp_path / "made")
    configured = settings(tmp_path / "data", engine.url, adapter=f", adapter: {made}")
    expected = f"triage@{digest_of(made)[:12]}"
    async with house(engine, configured) as home:
        await live(home, expected)
        kept = Path(engine.loaded[expected])
        assert kept == configured.installation.adapters / expected
        assert digest_of(kept) == digest_of(made)
    await engine.stop()
    await engine.start()
    async with house(engine, configured) as home:
        await until(lambda: expected in engine.loaded)
        with home.worker.database.connect() as connection:
            assert [found.id for found in registry.all_versions(connection)] == [expected]
    shutil.rmtree(made)
    with pytest.raises(SettingsError, match=r"models\.triage\.adapter"):
        check_declared(configured)
