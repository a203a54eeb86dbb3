# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from contract.database import job_events, open_database, reading
from contract.errors import EngineUnavailable, MillraceError, OperatorError, Overloaded, StorageFull
from contract.settings import Engine
from tests.trainer.house import free_ports
from trainer import jobs, work
from trainer.base_model import WAIT_SECONDS, patience, served_weights
from trainer.jobs import Job, JobState
from trainer.run import LATER, main


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = open_database(f"sqlite:///{tmp_path}/data/millrace.db")
    yield engine
    engine.dispose()


def worked(
    error: Exception, database: sa.Engine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[int, Job | None]:
    """The exit code of a job whose work ends with ``error``, and the job after it."""

    class Broken:
        def __init__(self, *_: Any) -> None: ...

        def run(self) -> None:
            raise error

    monkeypatch.setattr(work, "Work", Broken)
    config = folder / "millrace.yaml"
    config.write_text("data_dir: data\ntrainer: {nice: 0}\n")
    loop = {"model": "a", "base": "a", "data": {"reference": "x"}, "graders": ["g"], "trigger": {"new_rows": 1}}
    with database.begin() as connection:
        job = jobs.create(connection, loop="triage", alias="triage", base="tiny", spec=loop, cursor=0)
    code = main([job.id, "--config", str(config)])
    with reading(database) as connection:
        return code, jobs.get(connection, job.id)


@pytest.mark.parametrize("error", [Overloaded("the logger restarts"), StorageFull("full"), EngineUnavailable("starts")])
def test_a_job_that_meets_an_outage_is_left_for_later_and_says_so(
    error: MillraceError, database: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, job = worked(error, database, tmp_path, monkeypatch)
    assert code == LATER
    assert job is not None
    assert job.status is JobState.RUNNING
    with reading(database) as connection:
        messages = list(connection.scalars(sa.select(job_events.c.message).where(job_events.c.level == "warn")))
    assert messages == [f"The job is left for later: {error}"]


def test_a_job_that_meets_a_locked_control_database_is_left_for_later(
    database: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = sa.exc.OperationalError("BEGIN IMMEDIATE", None, Exception("database is locked"))
    code, job = worked(locked, database, tmp_path, monkeypatch)
    assert code == LATER
    assert job is not None
    assert job.status is JobState.RUNNING


def test_a_job_that_a_person_has_to_mend_fails(
    database: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, job = worked(OperatorError("no rows"), database, tmp_path, monkeypatch)
    assert code == 1
    assert job is not None
    assert (job.status, job.error) == (JobState.FAILED, "no rows")


async def test_an_engine_that_does_not_answer_is_an_outage() -> None:
    engine = Engine(name="local", base_model="tiny", url=f"http://127.0.0.1:{free_ports(1)[0]}")
    with pytest.raises(EngineUnavailable, match="engine local"):
        await served_weights(engine, wait=0)


def test_an_engine_that_is_started_here_is_waited_for_as_long_as_it_may_take() -> None:
    started = Engine.model_validate({"name": "a", "base_model": "b", "launch": {"model": "m", "start_timeout": "15m"}})
    assert patience(started) == 900
    assert patience(Engine(name="a", base_model="b", url="http://c")) == WAIT_SECONDS
