# SPDX-License-Identifier: Apache-2.0
"""Training jobs in the control database: their rows, their states, their events. No torch here.

    validating_files ──> queued ──> running ──> succeeded
                           │           │ ├────> failed
                           │           │ └────> paused ──> queued
                           └───────────┴──────> cancelled

The states are those of OpenAI's fine-tuning jobs. A running job is held by a lease; whoever holds it may go on with
the job where it was.
"""

import enum
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from contract import changes, leases
from contract.database import changes as feed
from contract.database import job_events, jobs
from contract.errors import DatabaseError
from contract.ids import new_id

LEASE_SECONDS = 60.0
"""A worker renews its lease at every step and at least three times in this time."""

Clock = Callable[[], int]


class JobState(enum.StrEnum):
    """Where a job stands."""

    VALIDATING = "validating_files"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.VALIDATING: frozenset({JobState.QUEUED, JobState.FAILED, JobState.CANCELLED}),
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.FAILED, JobState.CANCELLED}),
    JobState.RUNNING: frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.PAUSED, JobState.CANCELLED}),
    JobState.PAUSED: frozenset({JobState.QUEUED, JobState.CANCELLED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}


@dataclass(frozen=True)
class Job:
    """One job. ``spec`` is the loop as it was when the job was made; ``cursor`` bounds what it reads of the log."""

    id: str
    loop: str
    alias: str
    base: str
    status: JobState
    spec: dict[str, Any]
    cursor: int
    created_ns: int
    started_ns: int | None
    finished_ns: int | None
    version: str | None
    result: dict[str, Any] | None
    error: str | None


def create(
    connection: sa.Connection,
    *,
    loop: str,
    alias: str,
    base: str,
    spec: Mapping[str, Any],
    cursor: int,
    now_ns: Clock = time.time_ns,
) -> Job:
    """A queued job: its rows are in the log, so there are no files to validate."""
    identifier = new_id("ftjob", now_ns)
    connection.execute(
        jobs.insert().values(
            id=identifier, loop=loop, alias=alias, base=base, status=JobState.QUEUED.value, spec=dict(spec),
            cursor=cursor, created_ns=now_ns(),
        )
    )  # fmt: skip
    changes.note(connection, "jobs", identifier, now_ns)
    event(connection, identifier, f"Created training job {identifier} for the loop {loop!r}", now_ns=now_ns)
    return _known(connection, identifier)


def get(connection: sa.Connection, identifier: str) -> Job | None:
    """The job of that id."""
    row = connection.execute(jobs.select().where(jobs.c.id == identifier)).one_or_none()
    return None if row is None else _job(row)


def latest(connection: sa.Connection, loop: str) -> Job | None:
    """The newest job of a loop."""
    return next(newest_first(connection, loop), None)


def newest_first(connection: sa.Connection, loop: str) -> Iterator[Job]:
    """The jobs of a loop, read as they are asked for."""
    query = jobs.select().where(jobs.c.loop == loop).order_by(jobs.c.created_ns.desc(), jobs.c.id.desc())
    with connection.execute(query) as rows:
        for row in rows:
            yield _job(row)


def first_seen(connection: sa.Connection, loop: str, now_ns: Clock = time.time_ns) -> int:
    """When a loop was first asked after. The feed of changes keeps it, so a restart does not begin the wait anew."""
    query = sa.select(sa.func.min(feed.c.time_ns)).where(feed.c.topic == "loops", feed.c.subject == loop)
    known: int | None = connection.scalar(query)
    if known is not None:
        return known
    now = now_ns()
    changes.note(connection, "loops", loop, lambda: now)
    return now


def in_states(connection: sa.Connection, states: Collection[JobState]) -> list[Job]:
    """Jobs in any of these states, oldest first."""
    query = jobs.select().where(jobs.c.status.in_([state.value for state in states]))
    return [_job(row) for row in connection.execute(query.order_by(jobs.c.created_ns, jobs.c.id))]


def claim(connection: sa.Connection, identifier: str, holder: str, now_ns: Clock = time.time_ns) -> Job:
    """Takes a queued job, or a running one whose worker is gone, and holds its lease.

    Raises:
        DatabaseError: there is no such job, another worker holds it, or it is over or paused.
    """
    job = _known(connection, identifier)
    if job.status not in (JobState.QUEUED, JobState.RUNNING):
        raise DatabaseError(f"job {identifier} is {job.status}; only a queued or running job can be worked on")
    if not renew(connection, identifier, holder, now_ns):
        raise DatabaseError(f"job {identifier} is held by another worker")
    if job.status is JobState.QUEUED:
        _move(connection, job, JobState.RUNNING, now_ns, started_ns=now_ns())
    return _known(connection, identifier)


def renew(connection: sa.Connection, identifier: str, holder: str, now_ns: Clock = time.time_ns) -> bool:
    """Holds the job's lease for another `LEASE_SECONDS`; False where another worker has it."""
    return leases.hold(connection, _lease(identifier), holder, LEASE_SECONDS, now_ns)


def let_go(connection: sa.Connection, identifier: str, holder: str) -> None:
    """Gives the job's lease back."""
    leases.release(connection, _lease(identifier), holder)


def succeed(
    connection: sa.Connection,
    identifier: str,
    version: str | None,
    result: Mapping[str, Any],
    now_ns: Clock = time.time_ns,
) -> Job:
    """Ends a job well; ``result`` holds the report's figures."""
    job = _known(connection, identifier)
    _move(connection, job, JobState.SUCCEEDED, now_ns, finished_ns=now_ns(), version=version, result=dict(result))
    return _known(connection, identifier)


def fail(connection: sa.Connection, identifier: str, error: str, now_ns: Clock = time.time_ns) -> Job:
    """Ends a job badly; ``error`` is for the person who reads it."""
    _move(connection, _known(connection, identifier), JobState.FAILED, now_ns, finished_ns=now_ns(), error=error)
    event(connection, identifier, f"The job failed: {error}", level="error", now_ns=now_ns)
    return _known(connection, identifier)


def event(
    connection: sa.Connection,
    identifier: str,
    message: str,
    *,
    level: Literal["info", "warn", "error"] = "info",
    kind: Literal["message", "metrics"] = "message",
    data: Mapping[str, Any] | None = None,
    now_ns: Clock = time.time_ns,
) -> None:
    """Writes one line of the job's story down."""
    connection.execute(
        job_events.insert().values(
            job=identifier, time_ns=now_ns(), level=level, type=kind, message=message,
            data=None if data is None else dict(data),
        )
    )  # fmt: skip


def _move(connection: sa.Connection, job: Job, state: JobState, now_ns: Clock, **values: Any) -> None:
    if state not in TRANSITIONS[job.status]:
        raise DatabaseError(f"job {job.id} is {job.status}; it cannot become {state}")
    connection.execute(jobs.update().where(jobs.c.id == job.id).values(status=state.value, **values))
    changes.note(connection, "jobs", job.id, now_ns)


def _known(connection: sa.Connection, identifier: str) -> Job:
    job = get(connection, identifier)
    if job is None:
        raise DatabaseError(f"there is no job {identifier}")
    return job


def _job(row: sa.Row[Any]) -> Job:
    return Job(**{**row._asdict(), "status": JobState(row.status)})


def _lease(identifier: str) -> str:
    return f"job {identifier}"
