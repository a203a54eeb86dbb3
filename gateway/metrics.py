# SPDX-License-Identifier: Apache-2.0
"""Prometheus metrics that are right over all workers, and cost a request a few dictionary updates.

A worker counts in plain dictionaries and leaves a copy in ``run/<slot>.metrics`` once a second. Whichever worker is
scraped adds the copies of the others to its own counts. A worker that takes over a slot goes on from what its
predecessor counted, so no counter falls when a worker is replaced; gauges count only while their worker lives.
"""

import logging
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from contract.errors import OperatorError
from contract.money import NANO
from contract.records import Invocation, Status

PREFIX = "millrace_"
SUFFIX = ".metrics"
STALE_SECONDS = 10.0
"""Age at which the gauges of another worker's copy no longer count."""
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_SHORT = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 1.0)


@dataclass(frozen=True)
class Counter:
    """A count that only grows; its name on the page ends in ``_total``."""

    name: str
    help: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Histogram:
    """A distribution."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = _SECONDS


@dataclass(frozen=True)
class Gauge:
    """A value of this moment, asked for at the scrape."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    shared: bool = False
    """Every worker sees the same value, so it is not added up."""


REQUESTS = Counter("requests", "Requests by route, public model and HTTP status", ("route", "model", "status"))
ENDED = Counter("invocations", "Invocations by public model and how they ended", ("model", "status"))
TOKENS = Counter("tokens", "Tokens metered", ("model", "kind"))
COST = Counter("cost_usd", "US dollars metered", ("model",))
DROPPED = Counter("log_dropped", "Records or payloads that the spool could not keep, by reason", ("reason",))
DURATION = Histogram("request_duration_seconds", "Arrival to last byte", ("route", "model"))
OVERHEAD = Histogram("overhead_seconds", "Duration less the wait for the engine", ("route", "model"), _SHORT)
FIRST_TOKEN = Histogram("time_to_first_token_seconds", "Arrival to first byte of a stream", ("model",))
SWAP = Histogram("adapter_swap_seconds", "Start of loading to the alias pointing at the new version", ("model",))
IN_FLIGHT = Gauge("inflight_requests", "Requests being answered")
QUEUED = Gauge("queued_requests", "Requests that wait for a place of their model", ("model",))
WAITING = Gauge("ends_waiting", "Ends of requests that wait until the spool takes them")
ADAPTER = Gauge("adapter_info", "What answers under a public model name", ("name", "version"), shared=True)
HEALTHY = Gauge("replica_healthy", "Whether an engine replica answers", ("replica",), shared=True)

COUNTERS = (REQUESTS, ENDED, TOKENS, COST, DROPPED)
HISTOGRAMS = (DURATION, OVERHEAD, FIRST_TOKEN, SWAP)
GAUGES = (IN_FLIGHT, QUEUED, WAITING, ADAPTER, HEALTHY)

Labels = tuple[str, ...]
Readings = dict[Labels, float]


class Counts(msgspec.Struct):
    """What was counted. A histogram's values are its buckets' own counts, the overflow and, last, the sum."""

    counters: dict[str, dict[Labels, float]] = {}
    histograms: dict[str, dict[Labels, list[float]]] = {}

    def add(self, other: "Counts") -> None:
        """Adds what another worker, or an earlier life of this one, counted."""
        for name, counted in other.counters.items():
            series = self.counters.setdefault(name, {})
            for labels, value in counted.items():
                series[labels] = series.get(labels, 0) + value
        for name, spread in other.histograms.items():
            known = self.histograms.setdefault(name, {})
            for labels, values in spread.items():
                known[labels] = [a + b for a, b in zip(known.get(labels, [0.0] * len(values)), values, strict=True)]


class Copy(msgspec.Struct):
    """What a worker leaves for the others."""

    counts: Counts
    gauges: dict[str, Readings]


class _Tally:
    """What every request counts, of one route and model: in attributes, which cost less than a look-up each."""

    __slots__ = (
        "cached", "completion", "cost", "durations", "ends", "overheads", "prompt", "reasoning", "statuses",
    )  # fmt: skip

    def __init__(self) -> None:
        self.statuses: dict[int, int] = {}
        self.ends: dict[Status, int] = {}
        self.durations = _no_values(DURATION)
        self.overheads = _no_values(OVERHEAD)
        self.prompt = self.cached = self.completion = self.reasoning = 0
        self.cost = 0
        """Nano-dollars."""

    def counts(self, route: str, model: str) -> Counts:
        """The same under the names and labels of the page, without what never happened."""
        kinds = {
            "prompt": self.prompt, "cached": self.cached, "completion": self.completion, "reasoning": self.reasoning,
        }  # fmt: skip
        counters: dict[str, dict[Labels, float]] = {
            REQUESTS.name: {(route, model, str(status)): number for status, number in self.statuses.items()},
            ENDED.name: {(model, status.value): number for status, number in self.ends.items()},
            TOKENS.name: {(model, kind): number for kind, number in kinds.items() if number},
            COST.name: {(model,): self.cost / NANO} if self.cost else {},
        }
        spread: dict[str, dict[Labels, list[float]]] = {}
        if self.statuses:
            spread[DURATION.name] = {(route, model): self.durations}
        if self.ends:
            spread[OVERHEAD.name] = {(route, model): self.overheads}
        return Counts(counters, spread)


def _add(series: dict[Labels, float], labels: Labels, amount: float) -> None:
    series[labels] = series.get(labels, 0) + amount


def _no_values(histogram: Histogram) -> list[float]:
    return [0.0] * (len(histogram.buckets) + 2)


def _observe(values: list[float], buckets: tuple[float, ...], value: float) -> None:
    values[bisect_left(buckets, value)] += 1
    values[-1] += value


_log = logging.getLogger(__name__)
_copy_decoder = msgspec.msgpack.Decoder(Copy)


class Metrics:
    """The counts of one worker, and the page over all of them."""

    def __init__(self, folder: Path, slot: str, clock: Callable[[], float] = time.time) -> None:
        """``folder`` is where the workers of an installation leave their copies.

        Raises:
            OperatorError: it cannot be used.
        """
        self._folder = folder
        self._path = folder / f"{slot}{SUFFIX}"
        self._clock = clock
        self._counts = Counts(
            {counter.name: {} for counter in COUNTERS}, {histogram.name: {} for histogram in HISTOGRAMS}
        )
        self._tallies: dict[tuple[str, str], _Tally] = {}
        self._gauges: dict[str, Callable[[], Readings]] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if self._path.exists():
                self._counts.add(_read(self._path).counts)
        except OSError as error:
            raise OperatorError(f"cannot use {self._path} for metrics: {error.strerror}") from error

    def count(self, counter: Counter, labels: Labels, amount: float = 1) -> None:
        """Adds to a counter."""
        _add(self._counts.counters[counter.name], labels, amount)

    def observe(self, histogram: Histogram, labels: Labels, value: float) -> None:
        """Adds one value to a histogram."""
        series = self._counts.histograms[histogram.name]
        values = series.get(labels)
        if values is None:
            values = series[labels] = _no_values(histogram)
        _observe(values, histogram.buckets, value)

    def answered(self, route: str, model: str, status: int, seconds: float) -> None:
        """Counts a request that has got its answer, ``seconds`` after it came; ``model`` is its label."""
        tally = self._tallies.get((route, model)) or self._new_tally(route, model)
        tally.statuses[status] = tally.statuses.get(status, 0) + 1
        _observe(tally.durations, _SECONDS, seconds)

    def ended(self, record: Invocation, model: str) -> None:
        """Counts an invocation that has ended; ``model`` is its label."""
        tally = self._tallies.get((record.endpoint, model)) or self._new_tally(record.endpoint, model)
        tally.ends[record.status] = tally.ends.get(record.status, 0) + 1
        _observe(tally.overheads, _SHORT, (record.overhead_ns or 0) / NANO)
        tally.prompt += record.prompt_tokens or 0
        tally.cached += record.cached_tokens or 0
        tally.completion += record.completion_tokens or 0
        tally.reasoning += record.reasoning_tokens or 0
        tally.cost += record.cost or 0

    def _new_tally(self, route: str, model: str) -> "_Tally":
        tally = self._tallies[(route, model)] = _Tally()
        return tally

    def _all_counts(self) -> Counts:
        counts = Counts({name: {} for name in self._counts.counters}, {name: {} for name in self._counts.histograms})
        counts.add(self._counts)
        for (route, model), tally in self._tallies.items():
            counts.add(tally.counts(route, model))
        return counts

    def gauge(self, gauge: Gauge, read: Callable[[], Readings]) -> None:
        """Says where a gauge's value comes from."""
        self._gauges[gauge.name] = read

    def save(self) -> None:
        """Leaves this worker's copy for the others."""
        fresh = self._path.with_suffix(".new")
        fresh.write_bytes(msgspec.msgpack.encode(Copy(self._all_counts(), self._readings())))
        fresh.replace(self._path)

    def page(self) -> bytes:
        """The text page of Prometheus, over all workers."""
        counts, gauges = self._all_counts(), self._readings()
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            if path != self._path:
                copy = _read(path)
                counts.add(copy.counts)
                if self._clock() - path.stat().st_mtime < STALE_SECONDS:
                    _add_gauges(gauges, copy.gauges)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Page(counts, gauges))
        return generate_latest(registry)

    def _readings(self) -> dict[str, Readings]:
        return {name: read() for name, read in self._gauges.items()}


def _read(path: Path) -> Copy:
    """A copy; an empty one where the power went before its bytes were on the disk."""
    try:
        return _copy_decoder.decode(path.read_bytes())
    except msgspec.DecodeError as error:
        _log.warning("%s is no copy of metrics and counts as empty: %s", path, error)
        return Copy(Counts(), {})


class _Page(Collector):
    """Counts and gauges as `prometheus_client` wants them."""

    def __init__(self, counts: Counts, gauges: dict[str, Readings]) -> None:
        self._counts = counts
        self._gauges = gauges

    def collect(self) -> Iterable[Metric]:
        for counter in COUNTERS:
            family = CounterMetricFamily(PREFIX + counter.name, counter.help, labels=counter.labels)
            for labels, value in self._counts.counters.get(counter.name, {}).items():
                family.add_metric(labels, value)
            yield family
        for histogram in HISTOGRAMS:
            spread = HistogramMetricFamily(PREFIX + histogram.name, histogram.help, labels=histogram.labels)
            for labels, values in self._counts.histograms.get(histogram.name, {}).items():
                bounds = [*map(str, histogram.buckets), "+Inf"]
                spread.add_metric(labels, list(zip(bounds, accumulate(values[:-1]), strict=True)), values[-1])
            yield spread
        for gauge in GAUGES:
            level = GaugeMetricFamily(PREFIX + gauge.name, gauge.help, labels=gauge.labels)
            for labels, value in self._gauges.get(gauge.name, {}).items():
                level.add_metric(labels, value)
            yield level


def _add_gauges(gauges: dict[str, Readings], other: dict[str, Readings]) -> None:
    for gauge in GAUGES:
        readings = gauges.setdefault(gauge.name, {})
        for labels, value in other.get(gauge.name, {}).items():
            readings[labels] = readings.get(labels, value) if gauge.shared else readings.get(labels, 0) + value
