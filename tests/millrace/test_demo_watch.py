# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from contract import registry
from contract.database import aliases, open_database
from contract.registry import State
from millrace.demo.watch import Watch
from trainer import jobs


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = open_database(f"sqlite:///{tmp_path / 'millrace.db'}")
    with engine.begin() as connection:
        connection.execute(aliases.insert().values(name="triage", engine="small", version=None, changed_ns=1))
    yield engine
    engine.dispose()


def add_job(connection: sa.Connection, created_ns: int) -> str:
    return jobs.create(
        connection, loop="triage", alias="triage", base="m", spec={}, cursor=0, now_ns=lambda: created_ns
    ).id


def test_the_newest_job_of_the_loop_is_watched(database: sa.Engine) -> None:
    watch = Watch(database, "triage", "triage")
    assert watch.job() is None
    with database.begin() as connection:
        jobs.fail(connection, add_job(connection, 1), "no rows")
        newest = add_job(connection, 2)
    job = watch.job()
    assert job is not None
    assert job.id == newest


def test_each_event_is_told_once(database: sa.Engine) -> None:
    watch = Watch(database, "triage", "triage")
    with database.begin() as connection:
        job = add_job(connection, 1)
        jobs.event(connection, job, "dataset")
    assert [event.message for event in watch.events(job)][1:] == ["dataset"]
    with database.begin() as connection:
        jobs.event(connection, job, "step 1", kind="metrics", data={"reward": 0.5})
    assert [(event.type, event.data) for event in watch.events(job)] == [("metrics", {"reward": 0.5})]
    assert watch.events(job) == []


def publish(connection: sa.Connection, gate: dict[str, object]) -> str:
    manifest = {"gate": gate}
    return registry.publish(
        connection, alias="triage", engine="small", base="m", digest="ab" * 32, path="/a", manifest=manifest
    ).id


def test_a_version_is_live_once_the_name_points_at_it_and_it_says_so(database: sa.Engine) -> None:
    watch = Watch(database, "triage", "triage")
    assert watch.live_version() is None
    with database.begin() as connection:
        version = publish(connection, {"admitted": True})
        registry.advance(connection, version, State.CANDIDATE, "loaded")
    assert watch.live_version() is None
    with database.begin() as connection:
        registry.advance(connection, version, State.LIVE, "proved")
        registry.point(connection, "triage", version)
    assert watch.live_version() == version


def test_what_the_gate_refused_is_said_with_its_reason(database: sa.Engine) -> None:
    with database.begin() as connection:
        version = publish(connection, {"admitted": False, "reason": "not above the base model"})
    assert Watch(database, "triage", "triage").refusal(version) == "not above the base model"


def test_what_the_engine_refused_is_said_with_its_reason(database: sa.Engine) -> None:
    watch = Watch(database, "triage", "triage")
    with database.begin() as connection:
        version = publish(connection, {"admitted": True, "reason": "above all"})
    assert watch.refusal(version) is None
    with database.begin() as connection:
        registry.advance(connection, version, State.RETIRED, "rank 32 is over 16")
    assert watch.refusal(version) == "rank 32 is over 16"
