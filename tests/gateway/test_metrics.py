# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from contract.errors import OperatorError
from gateway.metrics import ADAPTER, DURATION, IN_FLIGHT, REQUESTS, STALE_SECONDS, Metrics

LABELS = ("/v1/models", "", "200")


def samples(metrics: Metrics) -> dict[str, float]:
    """Every sample of the page as ``name{labels}`` -> value."""
    return {
        f"{sample.name}{{{','.join(f'{k}={v}' for k, v in sorted(sample.labels.items()))}}}": sample.value
        for family in text_string_to_metric_families(metrics.page().decode())
        for sample in family.samples
    }


def total(metrics: Metrics) -> float:
    return samples(metrics)["millrace_requests_total{model=,route=/v1/models,status=200}"]


def test_counts_of_all_workers_are_added_whichever_is_asked(tmp_path: Path) -> None:
    workers = [Metrics(tmp_path, f"gateway-{number}") for number in range(3)]
    for number, worker in enumerate(workers, 1):
        worker.count(REQUESTS, LABELS, number)
        worker.save()
    workers[0].count(REQUESTS, LABELS)
    assert total(workers[0]) == 7
    assert total(workers[1]) == 6


def test_no_counter_falls_when_a_worker_is_replaced(tmp_path: Path) -> None:
    first = Metrics(tmp_path, "gateway-0")
    first.count(REQUESTS, LABELS, 5)
    first.observe(DURATION, ("/v1/models", ""), 0.3)
    first.save()
    again = Metrics(tmp_path, "gateway-0")
    again.count(REQUESTS, LABELS)
    again.observe(DURATION, ("/v1/models", ""), 0.3)
    assert total(again) == 6
    assert samples(again)["millrace_request_duration_seconds_count{model=,route=/v1/models}"] == 2


def test_a_histogram_has_cumulative_buckets_sum_and_count(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, "gateway-0")
    for seconds in (0.005, 0.3, 1000.0):
        metrics.observe(DURATION, ("r", "m"), seconds)
    found = samples(metrics)
    name = "millrace_request_duration_seconds"
    assert found[f"{name}_bucket{{le=0.005,model=m,route=r}}"] == 1
    assert found[f"{name}_bucket{{le=0.25,model=m,route=r}}"] == 1
    assert found[f"{name}_bucket{{le=0.5,model=m,route=r}}"] == 2
    assert found[f"{name}_bucket{{le=300.0,model=m,route=r}}"] == 2
    assert found[f"{name}_bucket{{le=+Inf,model=m,route=r}}"] == 3
    assert found[f"{name}_count{{model=m,route=r}}"] == 3
    assert found[f"{name}_sum{{model=m,route=r}}"] == 1000.305


def test_gauges_of_living_workers_are_added_and_shared_ones_are_not(tmp_path: Path) -> None:
    now = [0.0]
    workers = [Metrics(tmp_path, f"gateway-{number}", clock=lambda: now[0]) for number in range(2)]
    for worker in workers:
        worker.gauge(IN_FLIGHT, lambda: {(): 3.0})
        worker.gauge(ADAPTER, lambda: {("triage", "triage@1"): 1.0})
        worker.save()
    now[0] = (tmp_path / "gateway-1.metrics").stat().st_mtime
    assert samples(workers[0])["millrace_inflight_requests{}"] == 6
    assert samples(workers[0])["millrace_adapter_info{name=triage,version=triage@1}"] == 1
    now[0] += STALE_SECONDS
    assert samples(workers[0])["millrace_inflight_requests{}"] == 3


@pytest.mark.parametrize("left", [b"", b"\0" * 100])
def test_a_copy_that_a_power_cut_left_without_its_bytes_counts_as_empty(tmp_path: Path, left: bytes) -> None:
    for number in range(2):
        (tmp_path / f"gateway-{number}.metrics").write_bytes(left)
    metrics = Metrics(tmp_path, "gateway-0")
    metrics.count(REQUESTS, LABELS)
    assert total(metrics) == 1


def test_a_folder_that_cannot_be_used_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "run").write_bytes(b"")
    with pytest.raises(OperatorError, match="cannot use .*run"):
        Metrics(tmp_path / "run", "gateway-0")
