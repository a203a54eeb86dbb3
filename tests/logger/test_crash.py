# SPDX-License-Identifier: Apache-2.0
"""The straight road, killed everywhere; the one through Kafka is in tests/e2e/test_log_crashes.py."""

import os
import resource
from pathlib import Path

import pytest

from logger import faults
from tests.logger.crashes import DIRECT, SMALL, WRITER, Crashes, Kill, hail, taken
from tests.logger.process import until

SOAK = int(os.environ.get("MILLRACE_SOAK", "0"))
"""How many kills, where that is to be more than one at each point."""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600 + SOAK * 30)]


@pytest.mark.soak
def test_killed_at_every_point_of_the_straight_road_the_log_holds_what_clients_saw(tmp_path: Path) -> None:
    died = hail(lambda number: Crashes(tmp_path / str(number), DIRECT, SMALL, number), SOAK)
    assert {f"{WRITER} {point}" for point in faults.WRITER} <= set(died)
    assert {f"logger {point}" for point in faults.INGESTER} <= set(died)
    print(dict(died))


def test_a_disk_that_is_full_for_the_store_loses_nothing(tmp_path: Path) -> None:
    """DuckDB survives a commit without room and dies of a checkpoint without room; then a new start goes on."""
    crashes = Crashes(tmp_path, DIRECT, SMALL, seed=1)
    crashes.kill(Kill(WRITER))
    logger = crashes.loggers["logger"]
    until(lambda: taken(logger) > 0, what="the start")
    assert logger.process.pid is not None
    resource.prlimit(logger.process.pid, resource.RLIMIT_FSIZE, (2**19, resource.RLIM_INFINITY))

    def is_full() -> bool:
        crashes.write()
        return "File too large" in logger.said()

    until(is_full, what="the full disk")
    if logger.lives:
        resource.prlimit(logger.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        logger.kill()
    else:
        assert logger.wait() == 1
    crashes.settle()
    crashes.compare()


def test_a_write_ahead_log_torn_anywhere_loses_nothing(tmp_path: Path) -> None:
    """DuckDB drops a torn end without a word; what was in it is still in the spool, and is read again."""
    crashes = Crashes(tmp_path, DIRECT, SMALL, seed=2)
    crashes.kill(Kill("logger", "after_delete"))
    for _ in range(4):
        crashes.kill(Kill("logger", "after_commit"))
        log = tmp_path / "data" / "store" / "log.duckdb.wal"
        with log.open("r+b") as file:
            file.truncate(crashes.randomness.randrange(log.stat().st_size))
    crashes.settle()
    crashes.compare()
