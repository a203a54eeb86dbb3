# SPDX-License-Identifier: Apache-2.0
"""The road through a real broker over TCP, killed everywhere; the straight one is in tests/logger/test_crash.py."""

import os
from pathlib import Path

import pytest

from logger import faults
from tests.e2e.broker import Broker
from tests.e2e.proxy import Proxy
from tests.logger.crashes import CONNECTION, KAFKA, SMALL, WRITER, Crashes, hail

pytest_plugins = ["tests.e2e.broker_fixtures"]
SOAK = int(os.environ.get("MILLRACE_SOAK", "0"))
"""How many kills, where that is to be more than one at each point."""
pytestmark = pytest.mark.timeout(900 + SOAK * 30)


@pytest.mark.soak
def test_killed_at_every_point_of_the_road_through_kafka_the_log_holds_what_clients_saw(
    tmp_path: Path, broker_folder: Path, proxy: Proxy
) -> None:
    broker = Broker(broker_folder, advertised=proxy.port)
    proxy.lead_to(broker.port)
    broker.start()

    def road(number: int) -> Crashes:
        log = SMALL | {"kafka": broker.settings(f"crashes-{number}")}
        return Crashes(tmp_path / str(number), KAFKA, log, number, proxy.cut)

    try:
        died = hail(road, SOAK)
    finally:
        broker.stop()
    assert {f"{WRITER} {point}" for point in faults.WRITER} <= set(died)
    assert {f"shipper {point}" for point in faults.SHIPPER} <= set(died)
    assert {f"ingester {point}" for point in faults.CONSUMER} <= set(died)
    assert died[f"{CONNECTION} anywhere"] > 0
    print(dict(died))
