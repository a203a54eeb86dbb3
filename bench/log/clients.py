# SPDX-License-Identifier: Apache-2.0
"""The blocks that shipper and ingester exchange, through each client of Kafka alone: no spool, no store.

confluent-kafka is no dependency of ours: this runs where somebody has installed it beside.
"""

import importlib.util
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from bench.log.records import average_bytes, records
from contract.records import encode
from contract.settings import Kafka
from logger.frames import frame
from logger.kafka import BLOCK_BYTES
from logger.topic import ensure_topic
from tests.e2e.broker import Broker

RECORDS = 50_000
KEY, HEADERS = b"gateway-0", [("first_seq", b"0")]
ACKNOWLEDGED = {"acks": "all", "enable_idempotence": True, "linger_ms": 5}


class KafkaPython:
    """As `logger.ship` and `logger.consume` use it."""

    def __init__(self, kafka: Kafka) -> None:
        from kafka import KafkaConsumer, KafkaProducer, TopicPartition

        (address,), self._kafka = kafka.bootstrap, kafka
        self._producer = KafkaProducer(bootstrap_servers=address, batch_size=4 * BLOCK_BYTES, **ACKNOWLEDGED)
        self._consumer = KafkaConsumer(bootstrap_servers=address, max_partition_fetch_bytes=8 * 2**20)
        self._partition = TopicPartition(kafka.topic, 0)

    def produce(self, blocks: Sequence[bytes]) -> None:
        """Returns once all are acknowledged."""
        futures = deque[Any]()
        for block in blocks:
            futures.append(self._producer.send(self._kafka.topic, key=KEY, value=block, headers=HEADERS))
            while len(futures) > self._kafka.max_in_flight // BLOCK_BYTES:
                futures.popleft().get(60)
        for future in futures:
            future.get(60)

    def consume(self, count: int) -> None:
        """Returns once so many were read."""
        self._consumer.assign([self._partition])  # not before: it fetches ahead
        self._consumer.seek(self._partition, 0)
        while count > 0:
            count -= sum(map(len, self._consumer.poll(timeout_ms=100, max_records=64).values()))

    def close(self) -> None:
        """Ends both."""
        self._producer.close()
        self._consumer.close(autocommit=False)


class Confluent:
    """librdkafka by confluent-kafka, with the same settings."""

    def __init__(self, kafka: Kafka) -> None:
        from confluent_kafka import Consumer, Producer, TopicPartition

        self._kafka, self._acknowledged = kafka, 0
        common = {"bootstrap.servers": kafka.bootstrap[0]}
        self._producer = Producer(
            common | {name.replace("_", "."): value for name, value in ACKNOWLEDGED.items()}
            | {"batch.size": 4 * BLOCK_BYTES}
        )  # fmt: skip
        self._consumer = Consumer(common | {"group.id": "bench", "enable.auto.commit": False})
        self._partition = TopicPartition(kafka.topic, 0, 0)

    def produce(self, blocks: Sequence[bytes]) -> None:
        """Returns once all are acknowledged."""
        for number, block in enumerate(blocks):
            self._producer.produce(self._kafka.topic, block, KEY, headers=HEADERS, on_delivery=self._note)
            self._producer.poll(0)
            while number - self._acknowledged > self._kafka.max_in_flight // BLOCK_BYTES:
                self._producer.poll(0.1)
        if self._producer.flush(60):
            raise SystemExit("not every block was acknowledged")

    def consume(self, count: int) -> None:
        """Returns once so many were read."""
        self._consumer.assign([self._partition])
        while count > 0:
            for message in self._consumer.consume(64, 0.1):
                if message.error():
                    raise SystemExit(str(message.error()))
                count -= len(message.value()) > 0

    def close(self) -> None:
        """Ends both."""
        self._consumer.close()

    def _note(self, error: object, _message: object) -> None:
        if error is not None:
            raise SystemExit(str(error))
        self._acknowledged += 1


def clients(folder: Path) -> dict[str, float]:
    """For each client, records a second and microseconds of CPU of a record, produced and consumed.

    Raises:
        SystemExit: confluent-kafka is not installed.
    """
    if importlib.util.find_spec("confluent_kafka") is None:
        raise SystemExit("this compares kafka-python with confluent-kafka; install it beside first")
    framed, group = (frame(encode(record)) for record in records(RECORDS)), BLOCK_BYTES // average_bytes()
    blocks = list(iter(lambda: b"".join(islice(framed, group)), b""))
    broker, found = Broker(folder), dict[str, float]()
    broker.start()
    try:
        for name, kind in (("kafka_python", KafkaPython), ("confluent", Confluent)):
            kafka = Kafka(bootstrap=[broker.address], topic=name)
            ensure_topic(kafka)
            client = kind(kafka)
            found |= _timed(f"{name}_produce", lambda client=client: client.produce(blocks))
            found |= _timed(f"{name}_consume", lambda client=client: client.consume(len(blocks)))
            client.close()
    finally:
        broker.stop()
    return found


def _timed(name: str, work: Callable[[], None]) -> dict[str, float]:
    clock, cpu = time.perf_counter(), time.process_time()
    work()
    clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
    return {f"{name}_per_second": RECORDS / clock, f"{name}_cpu_us": cpu / RECORDS * 1e6}
