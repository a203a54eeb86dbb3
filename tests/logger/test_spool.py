# SPDX-License-Identifier: Apache-2.0
import itertools
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from contract.errors import SpoolError, StorageFull
from contract.records import Invocation, Status, decode
from contract.settings import SpoolSettings
from logger.frames import HEADER
from logger.segments import bytes_on_disk, first_seqs, segment_path
from logger.spool import DROPPED, Producer, Spool, SpoolReader, claim_producer
from tests.logger.records import invocation, label

SMALL = SpoolSettings(max_bytes=2**20, segment_bytes=2**16)


@pytest.fixture
def producer(tmp_path: Path) -> Iterator[Producer]:
    taken = claim_producer(tmp_path, "gateway")
    yield taken
    taken.release()


def stored(producer: Producer, next_seq: int = 0) -> list[Invocation]:
    reader, found = SpoolReader(producer.folder, producer.name, next_seq), []
    while entries := reader.read():
        found += [decode(entry.payload) for entry in entries]
    reader.close()
    return found


def test_a_record_appended_can_be_read_at_once_with_its_producer_and_position(producer: Producer) -> None:
    spool = Spool(producer, SMALL)
    assert [spool.append(invocation("inv_a")), spool.append(invocation("inv_b"))] == [0, 1]
    assert [(r.id, r.producer, r.seq) for r in stored(producer)] == [
        ("inv_a", producer.name, 0),
        ("inv_b", producer.name, 1),
    ]
    spool.close()


def test_two_processes_never_hold_one_slot_and_a_killed_one_frees_it(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from logger.spool import claim_producer
print(claim_producer(Path(sys.argv[1]), "gateway").name, flush=True)
sys.stdin.read()
"""
    first = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=-1, stdout=-1, text=True)
    assert first.stdout is not None
    name = first.stdout.readline().strip()
    second = claim_producer(tmp_path, "gateway")
    assert {path.name for path in tmp_path.iterdir()} == {name, second.name} and second.name != name
    first.send_signal(signal.SIGKILL)
    first.communicate()
    third = claim_producer(tmp_path, "gateway")
    assert third.name == name
    second.release()
    third.release()


def test_producers_of_two_hosts_or_of_two_lives_of_a_folder_never_share_a_name(tmp_path: Path) -> None:
    taken = [claim_producer(tmp_path / host, "gateway") for host in ("one", "two")]
    shutil.rmtree(taken[0].folder)
    taken.append(claim_producer(tmp_path / "one", "gateway"))
    assert len({producer.name for producer in taken}) == 3
    for producer in taken:
        producer.release()


def test_torn_tail_is_cut_at_the_last_whole_record_and_reported(producer: Producer) -> None:
    spool = Spool(producer, SMALL)
    spool.append_many([invocation("inv_a"), invocation("inv_b")])
    spool.close()
    path = segment_path(producer.folder, 0)
    whole = path.stat().st_size
    for torn in (1, HEADER.size - 1, HEADER.size, HEADER.size + 5, whole // 2 - 1):
        path.write_bytes(path.read_bytes()[:whole] + path.read_bytes()[:torn])
        again = Spool(producer, SMALL)
        assert (again.recovered.cut_bytes, path.stat().st_size, again.next_seq) == (torn, whole, 2)
        again.close()


def test_a_reader_waits_at_a_torn_tail_and_goes_on_after_it_is_cut(producer: Producer) -> None:
    spool = Spool(producer, SMALL)
    spool.append(invocation("inv_a"))
    spool.close()
    path = segment_path(producer.folder, 0)
    path.write_bytes(path.read_bytes() + path.read_bytes()[:-3])
    reader = SpoolReader(producer.folder, producer.name)
    assert [entry.seq for entry in reader.read()] == [0]
    assert reader.read() == []
    again = Spool(producer, SMALL)
    again.append(invocation("inv_b"))
    assert [decode(entry.payload).id for entry in reader.read()] == ["inv_b"]
    again.close()
    reader.close()


@pytest.mark.parametrize("byte", [0, 3, 4, HEADER.size, HEADER.size + 40])
def test_a_damaged_record_in_the_middle_is_an_error_that_names_segment_and_byte(producer: Producer, byte: int) -> None:
    spool = Spool(producer, SMALL)
    spool.append(invocation("inv_a"))
    start = segment_path(producer.folder, 0).stat().st_size
    spool.append_many([invocation("inv_b"), invocation("inv_c")])
    spool.close()
    path = segment_path(producer.folder, 0)
    data = bytearray(path.read_bytes())
    data[start + byte] ^= 0x55
    path.write_bytes(data)
    with pytest.raises(SpoolError, match=rf"byte {start} of the segment .*{path.name} is damaged"):
        Spool(producer, SMALL)
    reader = SpoolReader(producer.folder, producer.name)
    assert [decode(entry.payload).id for entry in reader.read()] == ["inv_a"]
    with pytest.raises(SpoolError, match=rf"byte {start} of the segment .*{path.name} is damaged"):
        reader.read()
    reader.close()


def test_segments_rotate_at_their_size_and_read_as_one(producer: Producer) -> None:
    spool = Spool(producer, SMALL)
    records = [invocation(f"inv_{n}", messages=f'"{"x" * 5000}"') for n in range(40)]
    spool.append_many(records)
    firsts = first_seqs(producer.folder)
    assert len(firsts) >= 3
    assert all(segment_path(producer.folder, first).stat().st_size <= 2**16 for first in firsts)
    assert [r.id for r in stored(producer)] == [r.id for r in records]
    assert [r.seq for r in stored(producer, next_seq=17)] == list(range(17, 40))
    spool.close()


def test_a_missing_segment_is_an_error_not_a_jump(producer: Producer) -> None:
    spool = Spool(producer, SMALL)
    spool.append_many([invocation(f"inv_{n}", messages=f'"{"x" * 5000}"') for n in range(40)])
    spool.close()
    firsts = first_seqs(producer.folder)
    segment_path(producer.folder, firsts[1]).unlink()
    reader = SpoolReader(producer.folder, producer.name)
    with pytest.raises(SpoolError, match=f"records {firsts[1]} to {firsts[2] - 1} of {producer.name} are missing"):
        while reader.read():
            pass
    reader.close()
    with pytest.raises(SpoolError, match="are missing"):
        Spool(producer, SMALL)
    segment_path(producer.folder, 0).unlink()
    with pytest.raises(SpoolError, match=f"record 0 of {producer.name} is gone"):
        SpoolReader(producer.folder, producer.name).read()


def test_a_stray_file_among_the_segments_is_named(producer: Producer) -> None:
    (producer.folder / "copy of 0.seg").write_bytes(b"")
    with pytest.raises(SpoolError, match="copy of 0.seg is no segment of ours"):
        Spool(producer, SMALL)


def test_a_spool_that_ends_before_what_was_taken_from_it_is_not_the_same_spool(producer: Producer) -> None:
    spool = Spool(producer, SMALL)
    spool.append(invocation("inv_a"))
    spool.close()
    with pytest.raises(SpoolError, match="ends at record 1, but 5 were taken"):
        SpoolReader(producer.folder, producer.name, 5).read()


def test_positions_go_on_when_every_old_segment_is_gone(producer: Producer) -> None:
    spool = Spool(producer, SMALL)
    spool.append_many([invocation(f"inv_{n}", messages=f'"{"x" * 5000}"') for n in range(40)])
    spool.close()
    for first in first_seqs(producer.folder)[:-1]:
        segment_path(producer.folder, first).unlink()
    again = Spool(producer, SMALL)
    assert again.append(invocation("inv_next")) == 40
    again.close()


def test_an_open_entry_without_its_close_becomes_interrupted_exactly_once(producer: Producer) -> None:
    spool = Spool(producer, SMALL)
    spool.append(invocation("inv_whole", Status.OPEN))
    spool.append(invocation("inv_cut", Status.OPEN, prompt_tokens=7, choices=None))
    spool.append(invocation("inv_whole"))
    spool.close()
    again = Spool(producer, SMALL)
    assert again.recovered.interrupted == ("inv_cut",)
    closed = stored(producer)[-1]
    assert (closed.id, closed.status, closed.usage_source) == ("inv_cut", Status.INTERRUPTED, "estimated")
    assert (closed.seq, closed.prompt_tokens, closed.completion_tokens) == (3, 7, None)
    again.close()
    once_more = Spool(producer, SMALL)
    assert once_more.recovered.interrupted == () and once_more.next_seq == 4
    once_more.close()


def test_an_open_entry_of_an_earlier_segment_is_recovered_too(producer: Producer) -> None:
    spool = Spool(producer, SMALL)
    spool.append(invocation("inv_cut", Status.OPEN))
    spool.append_many([invocation(f"inv_{n}", messages=f'"{"x" * 5000}"') for n in range(30)])
    spool.close()
    again = Spool(producer, SMALL)
    assert again.recovered.interrupted == ("inv_cut",)
    again.close()


def fill(spool: Spool, size: int = 4000) -> int:
    for count in range(10_000):
        try:
            if spool.append(invocation(f"inv_{count}", messages=f'"{"x" * size}"')) == DROPPED:
                return count
        except StorageFull:
            return count
    raise AssertionError("the spool has no bound")


def test_a_full_spool_refuses_and_leaves_room_for_work_under_way(producer: Producer) -> None:
    spool = Spool(producer, SMALL, clock=lambda: 0.0)
    while not spool.full:
        spool.append(invocation(messages=f'"{"x" * 4000}"'))
    under_way = fill(spool)
    assert under_way >= 10
    assert bytes_on_disk(producer.folder) <= SMALL.max_bytes
    position = spool.next_seq
    with pytest.raises(StorageFull, match="max_bytes is 1048576") as refused:
        spool.append(invocation(messages=f'"{"x" * 4000}"'))
    assert (refused.value.status, refused.value.code, spool.next_seq) == (503, "storage_full", position)
    spool.close()


def test_a_full_spool_takes_records_again_when_the_reader_has_deleted_segments(producer: Producer) -> None:
    now = [0.0]
    spool = Spool(producer, SMALL, clock=lambda: now[0])
    fill(spool)
    for first in first_seqs(producer.folder)[:-1]:
        segment_path(producer.folder, first).unlink()
    now[0] += 1.0
    assert not spool.full
    spool.append(invocation("inv_after"))
    spool.close()


def test_a_spool_smaller_than_a_segment_can_still_be_emptied(producer: Producer) -> None:
    spool = Spool(producer, SpoolSettings(max_bytes=2**20), clock=lambda: 0.0)
    fill(spool)
    assert len(first_seqs(producer.folder)) >= 4
    spool.close()


def test_drop_payload_keeps_the_meter_part_and_counts(producer: Producer) -> None:
    spool = Spool(producer, SMALL.model_copy(update={"when_full": "drop_payload"}), clock=lambda: 0.0)
    spool.append_many([invocation(messages=f'"{"x" * 4000}"', prompt_tokens=5) for _ in range(300)])
    assert spool.dropped["payload"] > 0 and spool.dropped["record"] == 0
    assert not spool.full
    last = stored(producer)[-1]
    assert (last.seq, last.prompt_tokens, last.messages, last.choices) == (299, 5, None, None)
    spool.close()


def test_drop_counts_the_record_and_leaves_no_gap(producer: Producer) -> None:
    spool = Spool(producer, SMALL.model_copy(update={"when_full": "drop"}), clock=lambda: 0.0)
    kept = fill(spool)
    assert spool.dropped == {"record": 1}
    assert [r.seq for r in stored(producer)] == list(range(kept))
    spool.close()


def test_a_full_disk_refuses_and_nothing_is_half_written(producer: Producer) -> None:
    spool = Spool(producer, SMALL)
    spool.append(invocation("inv_a"))
    size = bytes_on_disk(producer.folder)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, before[1]))  # the kernel writes 100 bytes, then refuses
    try:
        with pytest.raises(StorageFull, match="File too large"):
            spool.append(invocation("inv_b"))
        assert spool.failure is not None and "File too large" in spool.failure
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert bytes_on_disk(producer.folder) == size
    assert spool.append(invocation("inv_c")) == 1
    assert [r.id for r in stored(producer)] == ["inv_a", "inv_c"]
    spool.close()


@pytest.mark.parametrize("durability", ["process", "batch", "request"])
def test_every_record_appended_survives_a_kill(tmp_path: Path, durability: str) -> None:
    code = """
import sys
from pathlib import Path
from contract.settings import SpoolSettings
from logger.spool import Spool, claim_producer
from tests.logger.records import invocation
spool = Spool(claim_producer(Path(sys.argv[1]), "gateway"), SpoolSettings(segment_bytes=2**16, durability=sys.argv[2]))
for n in range(10**9):
    print(spool.append(invocation(f"inv_{n}")), flush=True)
"""
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), durability], stdout=-1, text=True)
    assert child.stdout is not None
    seen = [int(child.stdout.readline()) for _ in range(200)][-1]
    child.send_signal(signal.SIGKILL)
    rest = child.communicate()[0].splitlines()
    seen = max([seen, *[int(line) for line in rest if line]][:-1], default=seen)
    producer = claim_producer(tmp_path, "gateway")
    spool = Spool(producer, SMALL)
    records = stored(producer)
    assert [r.seq for r in records] == list(range(len(records))) and len(records) > seen
    spool.close()
    producer.release()


def test_backlog_counts_records_and_bytes_behind(producer: Producer) -> None:
    spool = Spool(producer, SMALL)
    spool.append_many([invocation(f"inv_{n}", messages=f'"{"x" * 5000}"', time=n) for n in range(40)])
    reader = SpoolReader(producer.folder, producer.name)
    assert (reader.backlog().records, reader.backlog().bytes) == (40, bytes_on_disk(producer.folder))
    assert [entry.seq for entry in reader.read(max_records=7)] == list(range(7))
    assert (reader.backlog().records, reader.backlog().oldest_ns) == (33, 7)
    while reader.read():
        pass
    assert (reader.backlog().records, reader.backlog().bytes, reader.backlog().oldest_ns) == (0, 0, None)
    reader.close()
    spool.close()


def test_a_record_longer_than_a_chunk_is_read(producer: Producer) -> None:
    spool = Spool(producer, SpoolSettings())
    spool.append_many([invocation("inv_long", messages=f'"{"x" * 3_000_000}"'), label("fb_1", "inv_long")])
    reader = SpoolReader(producer.folder, producer.name)
    assert [entry.seq for entry in reader.read()] == [0]
    assert [entry.seq for entry in reader.read()] == [1]
    reader.close()
    spool.close()


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = descriptors()
    for durability in ("process", "batch", "request"):
        producer = claim_producer(tmp_path, "gateway")
        spool = Spool(producer, SpoolSettings(segment_bytes=2**16, durability=durability))
        spool.append_many([invocation(messages=f'"{"x" * 5000}"') for _ in range(40)])
        stored(producer)
        spool.close()
        producer.release()
    assert descriptors() == before


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
