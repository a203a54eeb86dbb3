# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from contract import registry
from contract.database import aliases, job_events, jobs, open_database
from contract.registry import State
from millrace.demo_watch import Watch


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = open_database(f"sqlite:///{tmp_path / 'millrace.db'}")
    with engine.begin() as connection:
        connection.execute(aliases.insert().values(name="triage", engine="small", version=None, changed_ns=1))
    yield engine
    engine.dispose()


def add_job(connection: sa.Connection, job: str, created_ns: int, status: str = "running") -> None:
    connection.execute(
        jobs.insert().values(
            id=job, loop="triage", alias="triage", base="m", status=status, spec={}, cursor=0, created_ns=created_ns
        )
    )


def add_event(connection: sa.Connection, job: str, message: str) -> None:
    row = {"job": job, "time_ns": 1, "level": "info", "type": "message", "message": message}
    connection.execute(job_events.insert().values(row))


def test_the_newest_job_of_the_loop_is_watched(database: sa.Engine) -> None:
    watch = Watch(database, "triage", "triage")
    assert watch.job() is None
    with database.begin() as connection:
        add_job(connection, "job_1", 1, "failed")
        add_job(connection, "job_2", 2)
    job = watch.job()
    assert job is not None
    assert (job.id, job.finished) == ("job_2", False)


def test_each_event_is_told_once(database: sa.Engine) -> None:
    watch = Watch(database, "triage", "triage")
    with database.begin() as connection:
        add_job(connection, "job_1", 1)
        add_event(connection, "job_1", "dataset")
        add_event(connection, "job_1", "step 1")
    assert [event.message for event in watch.events("job_1")] == ["dataset", "step 1"]
    with database.begin() as connection:
        add_event(connection, "job_1", "step 2")
    assert [event.message for event in watch.events("job_1")] == ["step 2"]
    assert watch.events("job_1") == []


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
