# SPDX-License-Identifier: Apache-2.0
"""A disk that is really full: a small file system of our own, where we may mount one."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.errors import InternalError, StorageFull
from contract.records import Invocation
from contract.settings import SpoolSettings, StoreSettings
from logger.queries import page
from logger.spool import Spool, claim_producer
from logger.store import Store
from tests.gateway.house import read_spool
from tests.logger.process import Logger, until
from tests.logger.records import invocation

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
TEXT = f'"{"x" * 4000}"'


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """16 MiB, and half of it in a file ``filler``."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if mounted.returncode:
        pytest.skip(f"no file system may be mounted here: {mounted.stderr.strip()}")
    (folder / "filler").write_bytes(bytes(3 * 2**23))
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(spool: Spool) -> list[str]:
    """Appends until the disk is full; what was taken."""
    taken: list[str] = []
    with pytest.raises(StorageFull, match="No space left on device"):
        for number in range(5000):
            spool.append(invocation(f"inv_{number}", messages=TEXT))
            taken.append(f"inv_{number}")
    return taken


def test_a_full_disk_under_the_spool_refuses_keeps_what_it_took_and_takes_again_when_there_is_room(disk: Path) -> None:
    producer = claim_producer(disk / "spool", "gateway")
    spool = Spool(producer, SpoolSettings(segment_bytes=2**16))
    taken = fill(spool)
    assert len(taken) > 500
    spool.retry()
    assert "No space left on device" in str(spool.failure)
    assert [record.id for record in read_spool(producer.folder)] == taken
    (disk / "filler").unlink()
    spool.retry()
    assert spool.failure is None
    assert spool.append(invocation("inv_more")) == len(taken)
    assert [record.id for record in read_spool(producer.folder)] == [*taken, "inv_more"]
    spool.close()
    again = Spool(producer, SpoolSettings())
    assert (again.recovered.cut_bytes, again.next_seq) == (0, len(taken) + 1)
    again.close()
    producer.release()


def test_a_full_disk_under_spool_and_store_is_told_and_costs_nothing_once_there_is_room(disk: Path) -> None:
    """A checkpoint without room is fatal to DuckDB: then the logger ends, as its supervisor sees, and starts again."""
    logger = Logger(disk.parent / "logger", data=disk, log={"store": "{batch_rows: 100, batch_delay: 50ms}"})
    until(lambda: logger.health().get("status") == "ok", what="the start")
    producer = claim_producer(disk / "spool", "gateway")
    spool = Spool(producer, SpoolSettings(segment_bytes=2**16))
    assert logger.process.pid is not None
    os.kill(logger.process.pid, signal.SIGSTOP)  # or it makes room while we take it
    taken = fill(spool)
    os.kill(logger.process.pid, signal.SIGCONT)
    until(lambda: not logger.lives or "store" in logger.errors(), what="the full disk")
    assert "o space left on device" in logger.said()
    (disk / "filler").unlink()

    def is_there() -> bool:
        nonlocal logger
        if not logger.lives:
            assert logger.wait() == 1
            logger = Logger(disk.parent / "logger")
        try:
            return bool(logger.health().get("cursor") == len(taken))
        except (InternalError, AssertionError):  # its store failed, and it is about to end
            return False

    until(is_there, what="the rest")
    spool.append(invocation("inv_more"))
    until(lambda: logger.health().get("cursor") == len(taken) + 1, what="what came after")
    assert logger.stop() == 0
    spool.close()
    producer.release()
    store = Store(disk / "store" / "log.duckdb", StoreSettings())
    assert [row["id"] for row in page(store, Invocation, 0, 5000, {})] == [*taken, "inv_more"]
    store.close()
