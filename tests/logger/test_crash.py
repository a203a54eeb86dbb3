# SPDX-License-Identifier: Apache-2.0
"""The short form; every fault point, and the long form, are in tests/e2e/test_log_crashes.py."""

import random
from pathlib import Path

from tests.logger.crashes import SMALL, Seen, compare, run_and_die, settle


def test_killed_around_a_commit_and_a_deletion_nothing_is_lost_and_nothing_is_twice(tmp_path: Path) -> None:
    randomness, seen = random.Random(0), Seen()
    for point in (("before_commit", 1), ("after_commit", 2), ("after_delete", 1)):
        run_and_die(tmp_path, point, seen, randomness, SMALL)
    settle(tmp_path, SMALL)
    compare(tmp_path, seen)
