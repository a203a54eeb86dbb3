# SPDX-License-Identifier: Apache-2.0
"""A job's process is killed between any two of its writes; the next one goes on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from contract.errors import Overloaded
from contract.records import AnyRecord, Charge, Decision, Record, decode
from contract.settings import SpoolSettings
from logger.client import Page
from logger.reader import SpoolReader
from logger.spool import Producer, Spool, claim_producer
from trainer.once import ROLE, Once
from trainer.stages import Stages

CHARGE = Charge(
    id="charge_j", time=1, project="default", category="training", amount=5, seconds=1, job="j", description="training"
)
DECISION = Decision(id="dec_j", time=1, action="admit", subject="triage@1", reason="good", figures="{}", alias="triage")


class Log:
    """What the logger has taken."""

    def __init__(self) -> None:
        self.records: list[AnyRecord] = []
        self.producer, self.position = "", 0

    def __call__(self) -> Self:
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    def take(self, producer: Producer) -> None:
        """All that is spooled."""
        reader = SpoolReader(producer.folder, producer.name, self.position)
        self.records += [decode(entry.payload) for entry in reader.read()]
        self.producer, self.position = producer.name, reader.next_seq
        reader.close()

    async def health(self) -> dict[str, Any]:
        return {"positions": [{"producer": self.producer, "next_seq": self.position}]}

    async def charges(self, job: str) -> Page:
        return Page([{"id": each.id} for each in self.records if isinstance(each, Charge) and each.job == job], 0)

    async def decisions(self, subject: str) -> Page:
        found = [each for each in self.records if isinstance(each, Decision) and each.subject == subject]
        return Page([{"id": each.id} for each in found], 0)


class Killed(Exception):
    pass


class Dying(Spool):
    """The process ends just before, or just after, a record is written."""

    before = after = False

    def append(self, record: Record) -> int:
        if self.before:
            raise Killed
        seq = super().append(record)
        if self.after:
            raise Killed
        return seq


@pytest.fixture
def producer(tmp_path: Path) -> Iterator[Producer]:
    held = claim_producer(tmp_path / "spool", ROLE)
    yield held
    held.release()


@pytest.fixture
def spool(producer: Producer) -> Iterator[Dying]:
    opened = Dying(producer, SpoolSettings())
    yield opened
    opened.close()


@pytest.mark.parametrize("record", [CHARGE, DECISION], ids=["charge", "decision"])
@pytest.mark.parametrize("end", ["before", "after"])
def test_a_record_is_there_once_wherever_the_first_run_was_killed(
    end: str, record: Charge | Decision, producer: Producer, spool: Dying, tmp_path: Path
) -> None:
    log = Log()
    once = Once(Stages(tmp_path / "job"), spool, tmp_path / "spool", log)  # of the tests
    setattr(spool, end, True)
    with pytest.raises(Killed):
        once.append("it", record)
    setattr(spool, end, False)
    log.take(producer)
    for _ in range(2):
        once.append("it", record)
    log.take(producer)
    assert [each.id for each in log.records] == [record.id]


def test_a_run_waits_for_the_log_before_it_says_that_the_record_is_not_there(
    producer: Producer, spool: Dying, tmp_path: Path
) -> None:
    log = Log()
    once = Once(Stages(tmp_path / "job"), spool, tmp_path / "spool", log)  # of the tests
    spool.after = True
    with pytest.raises(Killed):
        once.append("it", CHARGE)
    spool.after = False
    with pytest.raises(Overloaded, match="has not taken everything yet"):
        once.append("it", CHARGE)
    log.take(producer)
    once.append("it", CHARGE)
    log.take(producer)
    assert len(log.records) == 1
