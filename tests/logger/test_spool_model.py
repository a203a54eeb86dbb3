# SPDX-License-Identifier: Apache-2.0
"""A spool through any life that it may have, beside a list that says what it must hold."""

import itertools
import tempfile
from pathlib import Path

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from contract.records import Invocation, Status, decode
from logger.frames import HEADER
from logger.segments import first_seqs, segment_path
from logger.spool import Spool, SpoolReader, claim_producer
from tests.logger.records import invocation
from tests.logger.spools import SMALL


class SpoolModel(RuleBasedStateMachine):
    """A spool against a list: appends, clean and torn ends, deletions, a reader that follows."""

    def __init__(self) -> None:
        super().__init__()
        self.root = tempfile.TemporaryDirectory()
        self.producer = claim_producer(Path(self.root.name), "gateway")
        self.spool = Spool(self.producer, SMALL)
        self.written: list[str] = []
        self.read: list[str] = []
        self.open: list[str] = []
        self.reader = SpoolReader(self.producer.folder, self.producer.name)

    @rule(size=st.integers(0, 20_000))
    def append(self, size: int) -> None:
        self.spool.append(invocation(f"inv_{len(self.written)}", messages=f'"{"x" * size}"'))
        self.written.append(f"inv_{len(self.written)} complete")

    @rule()
    def begin(self) -> None:
        self.open.append(f"inv_{len(self.written)}")
        self.spool.append(invocation(self.open[-1], Status.OPEN))
        self.written.append(f"{self.open[-1]} open")

    @precondition(lambda self: self.open)
    @rule()
    def end(self) -> None:
        self.spool.append(invocation(self.open[0]))
        self.written.append(f"{self.open.pop(0)} complete")

    @rule(torn=st.integers(0, 200))
    def die_and_come_back(self, torn: int) -> None:
        self.spool.close()
        newest = segment_path(self.producer.folder, first_seqs(self.producer.folder)[-1])
        half = HEADER.pack(201, 0) + b"\0" * 200
        with newest.open("ab") as file:
            file.write(half[:torn])
        self.spool = Spool(self.producer, SMALL)
        assert self.spool.recovered.cut_bytes == torn
        assert self.spool.recovered.interrupted == tuple(self.open)
        self.written += [f"{identifier} interrupted" for identifier in self.open]
        self.open.clear()

    @rule(most=st.integers(1, 50))
    def follow(self, most: int) -> None:
        for entry in self.reader.read(max_records=most):
            record = decode(entry.payload)
            assert isinstance(record, Invocation) and (record.seq, len(self.read)) == (entry.seq, entry.seq)
            self.read.append(f"{record.id} {record.status}")

    @rule()
    def reader_starts_again(self) -> None:
        self.reader.close()
        self.reader = SpoolReader(self.producer.folder, self.producer.name, len(self.read))

    @precondition(lambda self: not self.open)
    @rule()
    def delete_what_was_read(self) -> None:
        firsts = first_seqs(self.producer.folder)
        for first, following in itertools.pairwise(firsts):
            if following <= len(self.read):
                segment_path(self.producer.folder, first).unlink()

    @invariant()
    def what_was_read_is_what_was_written(self) -> None:
        assert self.read == self.written[: len(self.read)]
        assert self.spool.next_seq == len(self.written)
        assert self.reader.backlog().records == len(self.written) - len(self.read)

    def teardown(self) -> None:
        while self.reader.backlog().records:
            self.follow(5000)
        self.what_was_read_is_what_was_written()
        self.reader.close()
        self.spool.close()
        self.producer.release()
        self.root.cleanup()


SpoolModel.TestCase.settings = hypothesis_settings(max_examples=60, stateful_step_count=40, deadline=None)
TestSpoolModel = SpoolModel.TestCase
