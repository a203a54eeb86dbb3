# SPDX-License-Identifier: Apache-2.0
"""What shipper and ingester agree on about the broker. Needs the `kafka` extra.

A message is a block: framed records of one producer, in order. Its key is the producer, so one partition has all of
them; its header ``first_seq`` is the position of the first.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from contract.errors import SettingsError
from contract.settings import Kafka
from logger.frames import MAX_PAYLOAD, unpack_block

try:
    from kafka import KafkaAdminClient
    from kafka.admin import ConfigResource, ConfigResourceType
    from kafka.errors import KafkaError, TopicAlreadyExistsError
except ImportError as error:
    raise SettingsError("log.kafka needs the kafka extra: pip install 'millrace[kafka]'") from error

log = logging.getLogger(__name__)

BLOCK_BYTES = 64 * 2**10
"""A block is filled up to this; a longer record has one of its own."""
MAX_MESSAGE = MAX_PAYLOAD + 2**16
ENVELOPE_BYTES = 512
"""More than Kafka puts around the block of a message: headers of batch and record, our key and our header."""
FIRST_SEQ = "first_seq"
RETRY_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0)
"""Between attempts to reach the broker; the last one for ever."""
_OPTIONS = ("security_protocol", "sasl_", "ssl_", "client_id")
_BOUND = "max.message.bytes"
_TOPIC = {"cleanup.policy": "delete", "retention.ms": str(7 * 24 * 3600 * 1000), _BOUND: str(16 * 2**20)}


@dataclass(frozen=True)
class Block:
    """Records of one producer as they came from the broker."""

    producer: str
    first_seq: int
    payloads: list[bytes]


def connection_options(kafka: Kafka) -> dict[str, Any]:
    """What every client of ours is made with.

    Raises:
        SettingsError: an option that is not about who we are and how we connect; the others are ours to set.
    """
    for name in kafka.options:
        if not name.startswith(_OPTIONS):
            raise SettingsError(f"log.kafka.options.{name}: only {', '.join(_OPTIONS)} options may be set")
    return {"bootstrap_servers": kafka.bootstrap, "bootstrap_timeout_ms": 5000, **kafka.options}


def ensure_topic(kafka: Kafka) -> int:
    """Makes the topic where it is missing; the bytes that a block may have there.

    An operator may have made it, with a bound of theirs, and may permit us neither to make topics nor to ask for the
    bound: then the broker says so when it refuses a block.
    """
    admin = KafkaAdminClient(**connection_options(kafka))
    try:
        admin.create_topics({kafka.topic: {"num_partitions": 1, "configs": _TOPIC}}, wait_for_metadata=True)
    except TopicAlreadyExistsError:
        pass
    except KafkaError as error:
        log.warning("the topic %s was not made: %s", kafka.topic, error)
    try:
        asked = ConfigResource(ConfigResourceType.TOPIC, kafka.topic)
        known = admin.describe_configs([asked], config_filter="all")["topic"][kafka.topic]
        return int(known[_BOUND]["value"]) - ENVELOPE_BYTES if _BOUND in known else MAX_MESSAGE
    except KafkaError as error:
        log.warning("%s of the topic %s is not known: %s", _BOUND, kafka.topic, error)
        return MAX_MESSAGE
    finally:
        admin.close()


def read_block(key: bytes | None, headers: list[tuple[str, bytes]], value: bytes | None) -> Block:
    """The block in a message.

    Raises:
        ValueError: the message is none of ours, or is damaged.
    """
    if not key or value is None:
        raise ValueError("a message without a producer as its key, or without a value")
    first = dict(headers).get(FIRST_SEQ, b"")
    if not first.isdigit():
        raise ValueError(f"its header {FIRST_SEQ} is {first!r}, no position")
    return Block(key.decode(), int(first), unpack_block(value))


def attempts(sleep: Callable[[float], object]) -> Callable[[], None]:
    """A function that waits before the next attempt, longer each time."""
    waits = list(RETRY_SECONDS)

    def wait() -> None:
        sleep(waits.pop(0) if len(waits) > 1 else waits[0])

    return wait
