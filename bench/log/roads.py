# SPDX-License-Identifier: Apache-2.0
"""Into the spool, and the two roads from there to DuckDB: straight, and through a real broker over TCP."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.log.records import fill, records
from contract.settings import Kafka, LogSettings, SpoolSettings
from logger.ingest import DirectIngester
from logger.spool import Spool, claim_producer
from logger.stage import Stage
from logger.store import Store
from tests.e2e.broker import Broker

APPENDS = {"process": 50_000, "batch": 50_000, "request": 1000}
DIRECT, THROUGH_BROKER = 100_000, 50_000
PATIENCE = 600.0
Figures = dict[str, float]


def append(folder: Path, durability: str) -> Figures:
    """Microseconds of one append on the thread that makes it: of its CPU, and of the clock."""
    producer = claim_producer(folder / "spool", durability)
    spool = Spool(producer, SpoolSettings.model_validate({"durability": durability}))
    some, count = list(records(1000)), APPENDS[durability]
    clock, cpu = time.perf_counter(), time.thread_time()
    for number in range(count):
        spool.append(some[number % 1000])
    clock, cpu = time.perf_counter() - clock, time.thread_time() - cpu
    spool.close()
    producer.release()
    return {"cpu_us": cpu / count * 1e6, "us": clock / count * 1e6}


def direct(folder: Path) -> Figures:
    """Records a second from a spool into the store; commits, checkpoints and deletions included."""
    settings = LogSettings()
    fill(folder / "spool", DIRECT, settings.spool)
    with _store(folder, settings) as store:
        return _timed(store, DIRECT, [DirectIngester(store, folder / "spool", settings)])


def through_broker(folder: Path) -> Figures:
    """The same through the broker, shipper and ingester in one process as `millrace serve logger` runs them."""
    from logger.consume import KafkaIngester  # here: kafka-python is an extra
    from logger.ship import Shipper

    broker = Broker(folder)
    broker.start()
    try:
        settings, kafka = LogSettings(), Kafka(bootstrap=[broker.address], topic="bench")
        fill(folder / "spool", THROUGH_BROKER, settings.spool)
        shipper = Shipper(folder / "spool", kafka, settings.spool)
        with _store(folder, settings) as store:
            ingester = KafkaIngester(store, kafka, settings.store)
            return _timed(store, THROUGH_BROKER, [shipper, ingester])
    finally:
        broker.stop()


@contextmanager
def _store(folder: Path, settings: LogSettings) -> Iterator[Store]:
    store = Store(folder / "log.duckdb", settings.store)
    try:
        yield store
    finally:
        store.close()


def _timed(store: Store, count: int, stages: Sequence[Stage]) -> Figures:
    """Runs the stages until the store has so many rows; timed from the first commit on: to meet a broker takes time."""
    stop = threading.Event()
    threads = [threading.Thread(target=stage.run, args=(stop,)) for stage in stages]
    try:
        for thread in threads:
            thread.start()
        _wait(store, 1, stages)
        first, clock, cpu = store.cursor, time.perf_counter(), time.process_time()
        _wait(store, count, stages)
        clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    return {"per_second": (count - first) / clock, "cpu_us": cpu / (count - first) * 1e6}


def _wait(store: Store, count: int, stages: Sequence[Stage]) -> None:
    deadline = time.monotonic() + PATIENCE
    while store.cursor < count:
        if time.monotonic() > deadline:
            raise SystemExit(f"{store.cursor} of {count} records arrived: {[stage.errors for stage in stages]}")
        time.sleep(0.002)
