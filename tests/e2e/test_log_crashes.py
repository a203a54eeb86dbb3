# SPDX-License-Identifier: Apache-2.0
import os
import random
from pathlib import Path

import pytest

from tests.e2e.broker import Broker
from tests.logger.crashes import SMALL, Point, Seen, compare, run_and_die, settle

pytest_plugins = ["tests.e2e.broker_fixtures"]
DIRECT: list[Point] = [
    ("before_commit", 1),
    ("after_commit", 3),
    ("before_checkpoint", 1),
    ("after_checkpoint", 1),
    ("after_delete", 1),
    ("after_delete", 2),
    None,
    None,
]
KAFKA: list[Point] = [
    ("after_produce", 2),
    ("after_ack", 1),
    ("before_save", 2),
    ("after_save", 1),
    ("before_commit", 1),
    ("after_commit", 2),
    None,
    None,
]
SOAK = int(os.environ.get("MILLRACE_SOAK", "0"))
"""How often everything is killed, where that is to be more than once at each point."""


@pytest.mark.soak
@pytest.mark.timeout(900 + SOAK * 30)
def test_killed_at_every_point_of_the_straight_road_the_log_holds_what_clients_saw(tmp_path: Path) -> None:
    kill_at_each(DIRECT, tmp_path, SMALL)


@pytest.mark.soak
@pytest.mark.timeout(900 + SOAK * 30)
def test_killed_at_every_point_of_the_road_through_kafka_the_log_holds_what_clients_saw(
    tmp_path: Path, broker: Broker
) -> None:
    kill_at_each(KAFKA, tmp_path, SMALL | {"kafka": broker.settings("crashes")})


def kill_at_each(points: list[Point], folder: Path, log: dict[str, str]) -> None:
    randomness, seen = random.Random(SOAK), Seen()
    for number in range(max(len(points), SOAK)):
        run_and_die(folder, points[number % len(points)], seen, randomness, log)
    settle(folder, log)
    compare(folder, seen)
