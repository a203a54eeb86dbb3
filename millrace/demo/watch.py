# SPDX-License-Identifier: Apache-2.0
"""What the demo sees of the loop at work: the newest job with its events, and what answers under the public name."""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from contract import registry
from contract.database import job_events, reading
from contract.registry import State
from trainer import jobs
from trainer.jobs import Job, JobState

FINISHED = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})


@dataclass(frozen=True)
class Event:
    """One line that a job wrote down, with its figures."""

    seq: int
    level: str
    type: str
    message: str
    data: dict[str, Any]


class Watch:
    """Reads the control database; never waits for a writer and never writes."""

    def __init__(self, engine: sa.Engine, loop: str, alias: str) -> None:
        self._engine = engine
        self._loop = loop
        self._alias = alias
        self._seen = 0

    def job(self) -> Job | None:
        """The newest job of the loop."""
        with reading(self._engine) as connection:
            return jobs.latest(connection, self._loop)

    def events(self, job: str) -> list[Event]:
        """Events of a job that were not read before, oldest first."""
        query = sa.select(job_events).where(job_events.c.job == job, job_events.c.seq > self._seen)
        with reading(self._engine) as connection:
            rows = connection.execute(query.order_by(job_events.c.seq)).all()
        found = [Event(row.seq, row.level, row.type, row.message, row.data or {}) for row in rows]
        self._seen = max([self._seen, *(event.seq for event in found)])
        return found

    def live_version(self) -> str | None:
        """The version behind the public name, or None while the base model answers."""
        with reading(self._engine) as connection:
            alias = next(each for each in registry.all_aliases(connection) if each.name == self._alias)
            version = registry.get(connection, alias.version) if alias.version else None
        return version.id if version is not None and version.state is State.LIVE else None

    def refusal(self, version: str) -> str | None:
        """Why a version will not be released, or None where it may be, or is."""
        with reading(self._engine) as connection:
            found = registry.get(connection, version)
        if found is None:
            return None
        gate = found.manifest.get("gate", {})
        if not gate.get("admitted"):
            return str(gate.get("reason", "the gate has not decided on it"))
        return found.reason if found.state is State.RETIRED else None
