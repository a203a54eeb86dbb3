# SPDX-License-Identifier: Apache-2.0
import logging
from typing import Any

import pytest
from kafka.errors import TopicAlreadyExistsError, TopicAuthorizationFailedError

from contract.settings import Kafka
from logger import topic
from logger.kafka import ENVELOPE_BYTES, MAX_MESSAGE
from logger.topic import UnfitTopic, ensure_topic

SETTINGS = Kafka(bootstrap=["nowhere:9"], topic="log", options={"sasl_mechanism": "PLAIN", "ssl_cafile": "ca.pem"})
FIT = {
    "cleanup.policy": "delete", "retention.ms": "604800000", "retention.bytes": "-1", "min.insync.replicas": "2",
    "unclean.leader.election.enable": "false", "max.message.bytes": "16777216",
}  # fmt: skip


class Admin:
    """A cluster of three brokers in the place of kafka-python's client for such things."""

    def __init__(self) -> None:
        self.brokers, self.replicas = 3, 3
        self.found = dict(FIT)
        self.made: dict[str, Any] = {}
        self.options: dict[str, Any] = {}
        self.refusal: Exception | None = None
        self.tells = True
        self.closed = False

    def connect(self, **options: Any) -> "Admin":
        self.options = options
        return self

    def describe_cluster(self) -> dict[str, Any]:
        return {"brokers": [{"broker_id": number} for number in range(self.brokers)]}

    def create_topics(self, topics: dict[str, Any], wait_for_metadata: bool) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.made = topics

    def describe_configs(self, _resources: list[Any], config_filter: str) -> dict[str, Any]:
        if not self.tells:
            raise TopicAuthorizationFailedError()
        return {"topic": {"log": {name: {"value": value} for name, value in self.found.items()}}}

    def describe_topics(self, _topics: list[str]) -> list[dict[str, Any]]:
        return [{"partitions": [{"replica_nodes": list(range(self.replicas))}]}]

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def admin(monkeypatch: pytest.MonkeyPatch) -> Admin:
    made = Admin()
    monkeypatch.setattr(topic, "KafkaAdminClient", made.connect)
    return made


@pytest.mark.parametrize(("brokers", "replicas", "in_sync"), [(1, 1, "1"), (2, 2, "1"), (3, 3, "2"), (9, 3, "2")])
def test_a_missing_topic_is_made_so_that_nothing_acknowledged_is_lost(
    admin: Admin, caplog: pytest.LogCaptureFixture, brokers: int, replicas: int, in_sync: str
) -> None:
    admin.brokers = brokers
    assert ensure_topic(SETTINGS) == 16 * 2**20 - ENVELOPE_BYTES
    configs = FIT | {"min.insync.replicas": in_sync}
    assert admin.made == {"log": {"num_partitions": 1, "replication_factor": replicas, "configs": configs}}
    assert not caplog.records and admin.closed


def test_how_we_connect_reaches_the_library(admin: Admin) -> None:
    ensure_topic(SETTINGS)
    assert admin.options["sasl_mechanism"] == "PLAIN" and admin.options["ssl_cafile"] == "ca.pem"


@pytest.mark.parametrize(
    ("name", "value"),
    [("retention.ms", "3600000"), ("retention.bytes", "1000000"), ("unclean.leader.election.enable", "true"),
     ("min.insync.replicas", "1"), ("max.message.bytes", "1048588")],
)  # fmt: skip
def test_settings_of_an_operators_topic_that_do_not_fit_are_said(
    admin: Admin, caplog: pytest.LogCaptureFixture, name: str, value: str
) -> None:
    admin.refusal, admin.found[name] = TopicAlreadyExistsError(), value
    bound = int(admin.found["max.message.bytes"]) - ENVELOPE_BYTES
    assert ensure_topic(SETTINGS) == bound
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and f"the topic log has {name}={value}: " in record.getMessage()


def test_a_topic_that_fits_or_has_but_one_broker_is_no_warning(admin: Admin, caplog: pytest.LogCaptureFixture) -> None:
    admin.refusal = TopicAlreadyExistsError()
    ensure_topic(SETTINGS)
    admin.replicas, admin.found["min.insync.replicas"], admin.found["retention.ms"] = 1, "1", "-1"
    ensure_topic(SETTINGS)
    assert not caplog.records


@pytest.mark.parametrize("policy", ["compact", "compact,delete"])
def test_a_compacted_topic_is_refused(admin: Admin, policy: str) -> None:
    admin.refusal, admin.found["cleanup.policy"] = TopicAlreadyExistsError(), policy
    with pytest.raises(UnfitTopic, match=rf"the topic log has cleanup\.policy={policy}, .* log\.kafka\.topic"):
        ensure_topic(SETTINGS)
    assert admin.closed


def test_who_may_neither_make_topics_nor_ask_goes_on_and_says_so(
    admin: Admin, caplog: pytest.LogCaptureFixture
) -> None:
    admin.refusal, admin.tells = TopicAuthorizationFailedError(), False
    assert ensure_topic(SETTINGS) == MAX_MESSAGE
    assert [record.getMessage().partition(": ")[0] for record in caplog.records] == [
        "the topic log was not made", "the settings of the topic log are not known",
    ]  # fmt: skip


def test_the_checksums_of_batches_are_made_in_c() -> None:
    import crc32c
    from kafka.record import util

    assert util._crc32c is crc32c.crc32c
