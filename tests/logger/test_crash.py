# SPDX-License-Identifier: Apache-2.0
"""The short form; every fault point, and the long form, are in tests/e2e/test_log_crashes.py."""

import random
import resource
from pathlib import Path

import pytest

from tests.logger.crashes import SMALL, Seen, compare, run_and_die, settle, taken, write_and_die
from tests.logger.process import Logger, until

pytestmark = pytest.mark.timeout(600)


@pytest.mark.slow
def test_killed_around_a_commit_and_a_deletion_nothing_is_lost_and_nothing_is_twice(tmp_path: Path) -> None:
    randomness, seen = random.Random(0), Seen()
    for point in (("before_commit", 1), ("after_commit", 2), ("after_delete", 1)):
        run_and_die(tmp_path, point, seen, randomness, SMALL)
    settle(tmp_path, SMALL)
    compare(tmp_path, seen)


@pytest.mark.slow
def test_a_disk_that_is_full_for_the_store_loses_nothing(tmp_path: Path) -> None:
    """DuckDB survives a commit without room and dies of a checkpoint without room; then a new start goes on."""
    randomness, seen = random.Random(1), Seen()
    logger = Logger(tmp_path, log=SMALL)
    write_and_die(tmp_path / "data" / "spool", seen, randomness)
    until(lambda: taken(logger) > 0, what="the start")
    resource.prlimit(logger.process.pid, resource.RLIMIT_FSIZE, (2**19, resource.RLIM_INFINITY))

    def is_full() -> bool:
        write_and_die(tmp_path / "data" / "spool", seen, randomness)
        return "File too large" in logger.said()

    until(is_full, what="the full disk")
    if logger.process.poll() is None:
        resource.prlimit(logger.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        logger.kill()
    else:
        assert logger.process.returncode == 1
    settle(tmp_path, SMALL)
    compare(tmp_path, seen)


@pytest.mark.slow
def test_a_torn_write_ahead_log_loses_nothing(tmp_path: Path) -> None:
    """DuckDB drops a torn end without a word; what was in it is still in the spool, and is read again."""
    randomness, seen = random.Random(2), Seen()
    run_and_die(tmp_path, ("after_delete", 1), seen, randomness, SMALL)
    run_and_die(tmp_path, ("after_commit", 4), seen, randomness, SMALL)
    log = tmp_path / "data" / "store" / "log.duckdb.wal"
    with log.open("r+b") as file:
        file.truncate(log.stat().st_size - 7)
    settle(tmp_path, SMALL)
    compare(tmp_path, seen)
