# SPDX-License-Identifier: Apache-2.0
"""What a spool does with records that do not fit."""

import resource

import pytest

from contract.errors import StorageFull
from contract.settings import SpoolSettings
from logger.segments import bytes_on_disk, first_seqs, segment_path
from logger.spool import Producer, Spool
from tests.logger.records import invocation
from tests.logger.spools import SMALL, fill, stored


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
