# SPDX-License-Identifier: Apache-2.0
"""The topic: made with the settings that a log needs where that is permitted, and looked at where others made it."""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError, TopicAlreadyExistsError

from contract.errors import SpoolError
from contract.settings import Kafka
from logger.kafka import ENVELOPE_BYTES, MAX_MESSAGE, connection_options

log = logging.getLogger(__name__)

REPLICAS = 3
"""Or as many as there are brokers."""
_DAY_MS = 24 * 3600 * 1000
_BOUND = "max.message.bytes"
_WANTED = {
    "cleanup.policy": "delete", "retention.ms": str(7 * _DAY_MS), "retention.bytes": "-1",
    "unclean.leader.election.enable": "false", _BOUND: str(16 * 2**20),
}  # fmt: skip


class UnfitTopic(SpoolError):
    """The topic would lose what is sent to it."""


def ensure_topic(kafka: Kafka) -> int:
    """Makes the topic where it is missing; the bytes that a block may have there.

    An operator may have made it, with settings of theirs, and may permit us neither to make topics nor to ask for the
    settings: then the broker says so when it refuses a block.

    Raises:
        UnfitTopic: it is compacted, so that of each producer only the last block would stay.
        KafkaError: the broker is away.
    """
    admin = KafkaAdminClient(**connection_options(kafka))
    try:
        _make(admin, kafka.topic)
        found = _settings(admin, kafka.topic)
    finally:
        admin.close()
    if "compact" in found.get("cleanup.policy", ""):
        raise UnfitTopic(
            f"the topic {kafka.topic} has cleanup.policy={found['cleanup.policy']}, which keeps only the last block of "
            "each producer; set it to delete, or name another one in log.kafka.topic"
        )
    for unfit in _unfit(found):
        log.warning("the topic %s has %s", kafka.topic, unfit)
    return int(found[_BOUND]) - ENVELOPE_BYTES if _BOUND in found else MAX_MESSAGE


def _make(admin: KafkaAdminClient, topic: str) -> None:
    try:
        replicas = min(REPLICAS, len(admin.describe_cluster()["brokers"]))
        # With two of three, what was acknowledged is still there when any one broker is gone, and so is the topic.
        configs = {**_WANTED, "min.insync.replicas": "2" if replicas == REPLICAS else "1"}
        wanted = {"num_partitions": 1, "replication_factor": replicas, "configs": configs}
        admin.create_topics({topic: wanted}, wait_for_metadata=True)
    except TopicAlreadyExistsError:
        pass
    except KafkaError as error:
        log.warning("the topic %s was not made: %s", topic, error)


def _settings(admin: KafkaAdminClient, topic: str) -> Mapping[str, str]:
    """The topic's settings, as many as we are told, and its number of ``replicas``."""
    try:
        asked = ConfigResource(ConfigResourceType.TOPIC, topic)
        known: dict[str, dict[str, Any]] = admin.describe_configs([asked], config_filter="all")["topic"][topic]
        (described,) = admin.describe_topics([topic])
        replicas = min((len(each["replica_nodes"]) for each in described["partitions"]), default=0)
        return {**{name: str(each["value"]) for name, each in known.items()}, "replicas": str(replicas)}
    except KafkaError as error:
        log.warning("the settings of the topic %s are not known: %s", topic, error)
        return {}


def _unfit(found: Mapping[str, str]) -> Iterator[str]:
    """What may lose or cut records one day, in words."""
    kept_ms = int(found.get("retention.ms", _WANTED["retention.ms"]))
    if 0 <= kept_ms < _DAY_MS:
        yield f"retention.ms={kept_ms}: what no logger has taken by then is lost; {_WANTED['retention.ms']} is a week"
    if found.get("retention.bytes", "-1") != "-1":
        yield f"retention.bytes={found['retention.bytes']}: more than that, not yet taken, is lost; -1 is no bound"
    if found.get("unclean.leader.election.enable") == "true":
        yield "unclean.leader.election.enable=true: what was acknowledged may be lost with a broker"
    if int(found.get("replicas", 0)) >= REPLICAS and int(found.get("min.insync.replicas", 2)) < 2:
        yield "min.insync.replicas=1: what one broker alone has acknowledged is lost with it; set 2"
    if int(found.get(_BOUND, _WANTED[_BOUND])) < int(_WANTED[_BOUND]):
        yield f"{_BOUND}={found[_BOUND]}: a longer record goes without its payload; {_WANTED[_BOUND]} takes most"
