# SPDX-License-Identifier: Apache-2.0
"""Records that a repeated run of a job must not write again: what it costs, what its gate decided."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from contract.errors import Overloaded
from contract.records import Charge, Decision
from logger.client import LoggerClient
from logger.recovery import examine
from logger.spool import Spool
from trainer.stages import Stages

ROLE = "trainer"
"""The role under which the processes of jobs claim their spools."""


class Once:
    """Writes down that a record comes, then the record, then that it is there.

    Only a run that finds the first without the last has to ask the log which of the two its forerunner died before.
    """

    def __init__(self, stages: Stages, spool: Spool, spools: Path, log: Callable[[], LoggerClient]) -> None:
        """``spools`` is the folder with the spool of every producer."""
        self._stages = stages
        self._spool = spool
        self._spools = spools
        self._log = log

    def append(self, name: str, record: Charge | Decision) -> None:
        """Appends the record, whose id is the same in every run of the job, where no earlier run did.

        Raises:
            Overloaded: an earlier run may have, and the logger has not taken yet what that run wrote.
        """
        if self._stages.done(name):
            return
        interrupted = self._stages.done(f"{name}-begun")
        self._stages.run(f"{name}-begun", lambda: {"id": record.id})
        if not (interrupted and asyncio.run(self._known(record))):
            self._spool.append(record)
            self._spool.sync()
        self._stages.run(name, lambda: {"id": record.id})

    async def _known(self, record: Charge | Decision) -> bool:
        """Whether the log has the record; it is asked once it has all that the processes of jobs ever wrote."""
        written = self._written()
        async with self._log() as log:
            taken = {row["producer"]: row["next_seq"] for row in (await log.health())["positions"]}
            if any(taken.get(producer, 0) < next_seq for producer, next_seq in written.items()):
                raise Overloaded(f"the logger has not taken everything yet that was written before {record.id}")
            if isinstance(record, Charge):
                page = await log.charges(job=record.job)
            else:
                page = await log.decisions(subject=record.subject)
        return any(row["id"] == record.id for row in page.rows)

    def _written(self) -> dict[str, int]:
        return {folder.name: examine(folder).next_seq for folder in self._spools.glob(f"{ROLE}-*")}
