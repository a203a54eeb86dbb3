# SPDX-License-Identifier: Apache-2.0
"""What a spool could not keep, for the /metrics of the process that writes it."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from logger.spool import Spool


class Drops(Collector):
    """The counts of one spool by reason, as the gateway's workers show theirs."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool

    def collect(self) -> Iterator[CounterMetricFamily]:
        """One family."""
        help_text = "Records or payloads that the spool could not keep, by reason"
        family = CounterMetricFamily("millrace_log_dropped", help_text, labels=["reason"])
        for reason, number in sorted(self._spool.dropped.items()):
            family.add_metric([reason], number)
        yield family
