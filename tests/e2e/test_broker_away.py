# SPDX-License-Identifier: Apache-2.0
"""The broker is cut off for longer than the spool has room; then it is back, and what was taken is there once."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.errors import StorageFull
from contract.records import Invocation
from contract.settings import SpoolSettings, StoreSettings
from logger.queries import page
from logger.spool import DROPPED, Spool, claim_producer
from logger.store import Store
from tests.e2e.broker import Broker
from tests.e2e.proxy import Proxy
from tests.logger.process import Logger, until
from tests.logger.records import invocation

pytestmark = pytest.mark.timeout(300)
pytest_plugins = ["tests.e2e.broker_fixtures"]
TEXT = f'"{"x" * 4000}"'
AWAY = 330
"""Records while the broker is away: more than a MiB of them, and less than that without their payload."""


@pytest.fixture
def behind(broker_folder: Path, proxy: Proxy) -> Iterator[Broker]:
    """A broker that is reached through the proxy alone."""
    made = Broker(broker_folder, advertised=proxy.port)
    proxy.lead_to(made.port)
    made.start()
    yield made
    made.stop()


@pytest.mark.parametrize("policy", ["refuse", "drop_payload", "drop"])
def test_a_broker_cut_off_for_longer_than_the_spool_has_room_costs_what_the_policy_says_and_no_more(
    tmp_path: Path, behind: Broker, proxy: Proxy, policy: str
) -> None:
    producer = claim_producer(tmp_path / "data" / "spool", "gateway")
    spool = Spool(
        producer, SpoolSettings(max_bytes=2**20, segment_bytes=2**16, when_full=policy)
    )  # one of them by its name
    logger = Logger(tmp_path, log={"kafka": behind.settings(policy)}, hasty=True)
    taken: list[str] = []
    refused = 0

    def write(number: int) -> None:
        nonlocal refused
        try:
            if spool.append(invocation(f"inv_{number}", messages=TEXT, prompt_tokens=number)) != DROPPED:
                taken.append(f"inv_{number}")
        except StorageFull:
            refused += 1

    for number in range(20):
        write(number)
    until(lambda: logger.health().get("cursor") == 20, what="the road")
    proxy.away(True)
    for number in range(20, 20 + AWAY):
        write(number)
    until(lambda: "broker" in logger.errors(), what="the error")
    assert logger.health()["status"] == "degraded"
    cut, dropped = spool.dropped["payload"], spool.dropped["record"]
    assert {"refuse": refused, "drop_payload": cut, "drop": dropped}[policy] > AWAY // 5
    assert sum(map(bool, (refused, cut, dropped))) == 1, "each policy has one way"
    assert len(taken) == 20 + AWAY - refused - dropped
    proxy.away(False)
    until(lambda: logger.health().get("cursor") == len(taken) and not logger.errors(), what="the rest")
    until(lambda: not spool.full, what="room again")
    write(1000)
    assert taken[-1] == "inv_1000" and spool.dropped["payload"] == cut
    until(lambda: logger.health().get("cursor") == len(taken), what="what came after")
    assert logger.stop() == 0
    spool.close()
    producer.release()
    store = Store(tmp_path / "data" / "store" / "log.duckdb", StoreSettings())
    rows = page(store, Invocation, 0, 5000, {})
    assert [row["id"] for row in rows] == taken
    assert [row["seq"] for row in rows] == list(range(len(taken)))
    assert all(row["prompt_tokens"] == int(row["id"].removeprefix("inv_")) for row in rows)
    assert sum(row["messages"] is None for row in rows) == cut
    store.close()
