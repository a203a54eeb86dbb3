# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus with our configuration, rules and every query of the overview."""

import json
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest

from gateway.metrics import IN_FLIGHT, REQUESTS, Metrics
from judge.metrics import JudgeMetrics
from tests.dashboards.metrics import DASHBOARDS, RULES, panel_expressions

ENGINE = """\
vllm:num_requests_running{model_name="base",engine="0"} 3
vllm:lora_requests_info{max_lora="4",running_lora_adapters="a,b",waiting_lora_adapters=""} 1.7e9
"""


@pytest.fixture
def target(tmp_path: Path) -> Iterator[str]:
    """A server with the pages of a gateway, a judge and an engine in one."""
    gateway, judge = Metrics(tmp_path / "run", "gateway-0"), JudgeMetrics()
    gateway.count(REQUESTS, ("/v1/chat/completions", "triage", "200"), 7)
    gateway.gauge(IN_FLIGHT, lambda: {(): 2})
    judge.score.labels("exact", "triage").observe(1.0)

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = gateway.page() + generate_latest(judge.registry) + ENGINE.encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def ask(tmp_path: Path, target: str) -> Iterator[Callable[..., Any]]:
    """Prometheus with `dashboards/prometheus.yml`, at the target and in a hurry; asks its API."""
    config = yaml.safe_load((DASHBOARDS / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "200ms", "scrape_timeout": "200ms", "evaluation_interval": "200ms"}
    config["rule_files"] = [str(RULES)]
    for job in config["scrape_configs"]:
        if job["job_name"] in ("millrace-gateway", "millrace-engine"):
            job["static_configs"] = [{"targets": [target]}]
    path = tmp_path / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = ["prometheus", f"--config.file={path}", f"--storage.tsdb.path={tmp_path}/tsdb"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)

    def question(api: str, **query: str) -> Any:
        url = f"http://{address}/api/v1/{api}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            found = json.load(answer)
        assert found["status"] == "success"
        return found["data"]

    try:
        yield question
    finally:
        process.terminate()
        process.wait(20)


def until(condition: Callable[[], Any], seconds: float = 40.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            found = condition()
        except OSError:
            found = None
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s")


@pytest.mark.slow
def test_prometheus_scrapes_evaluates_every_rule_and_answers_every_panel(ask: Callable[..., Any]) -> None:
    def value(query: str) -> float | None:
        result = ask("query", query=query)["result"]
        return float(result[0]["value"][1]) if result else None

    assert until(lambda: value('millrace_requests_total{job="millrace-gateway"}')) == 7
    assert until(lambda: value("sum(millrace:requests:rate5m) + 1")) == 1
    assert until(lambda: value('vllm:num_requests_running{job="millrace-engine"}')) == 3
    assert value('{__name__="vllm:lora_requests_info",job="millrace-engine"}') is None
    assert value('{__name__="vllm:lora_requests_info",job="millrace-gateway"}') is not None, "the drop is the engine's"

    def evaluated() -> list[dict[str, Any]]:
        rules = [rule for group in ask("rules")["groups"] for rule in group["rules"]]
        return rules if all(rule["health"] != "unknown" for rule in rules) else []

    found = until(evaluated)
    assert [rule["name"] for rule in found if rule["health"] != "ok"] == []
    assert len(found) == sum(len(group["rules"]) for group in yaml.safe_load(RULES.read_text())["groups"])
    for expr in panel_expressions():
        ask("query", query=expr)
    until(lambda: [alert for alert in ask("alerts")["alerts"] if alert["labels"]["alertname"] == "MillraceTargetDown"])
