# SPDX-License-Identifier: Apache-2.0
"""Load with wrk, and what it said."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.gateway.peers import OTHER_CORE, Candidate
from bench.gateway.upstream import EVENTS, MODEL

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


@dataclass(frozen=True)
class Run:
    """One run against one candidate: requests per second, latencies in seconds, CPU of the gateway in seconds."""

    requests: int
    seconds: float
    p50: float
    p99: float
    cpu: float
    failed: int

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds

    @property
    def cpu_per_request(self) -> float:
        """CPU seconds of the gateway per request."""
        return self.cpu / max(1, self.requests)

    @property
    def cpu_per_event(self) -> float:
        """CPU seconds per event of a stream: what was flushed, each with its share of the request around it."""
        return self.cpu / (max(1, self.requests) * EVENTS)


def request(size: int, stream: bool, model: str = MODEL) -> bytes:
    """A body of about ``size`` bytes with two messages."""
    user = {"role": "user", "content": ""}
    body = {
        "model": model,
        "messages": [{"role": "system", "content": "You are terse."}, user],
        "max_tokens": 64,
        "temperature": 0.5,
        **({"stream": True, "stream_options": {"include_usage": True}} if stream else {}),
    }
    user["content"] = "x" * max(0, size - len(json.dumps(body)))
    return json.dumps(body).encode()


def run(candidate: Candidate, body: bytes, connections: int, seconds: int, folder: Path) -> Run:
    """wrk against the candidate from the other core.

    Raises:
        SystemExit: wrk could not be run or understood.
    """
    before = candidate.cpu_seconds()
    command = _wrk(candidate, body, connections, seconds, folder / candidate.name)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    cpu = candidate.cpu_seconds() - before
    if done.returncode:
        raise SystemExit(f"wrk failed: {done.stderr}{done.stdout}")
    return parse(done.stdout, cpu)


@contextmanager
def beside(candidate: Candidate, body: bytes, connections: int, folder: Path) -> Iterator[None]:
    """Within it, so many connections keep asking."""
    command = _wrk(candidate, body, connections, 3600, folder / "beside")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as asking:
        try:
            time.sleep(2)
            yield
        finally:
            asking.kill()


def _wrk(candidate: Candidate, body: bytes, connections: int, seconds: int, stem: Path) -> list[str]:
    script, file = stem.with_suffix(".lua"), stem.with_suffix(".json")
    file.write_bytes(body)
    script.write_text(
        f'local file = io.open("{file}", "rb")\n'
        'wrk.method = "POST"\nwrk.body = file:read("*a")\n'
        'wrk.headers["content-type"] = "application/json"\n'
        f'wrk.headers["authorization"] = "Bearer {candidate.key}"\n'
    )
    return [
        "taskset", "-c", str(OTHER_CORE), "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency",
        "--timeout", "30s", "-s", str(script), candidate.url,
    ]  # fmt: skip


def parse(said: str, cpu: float) -> Run:
    """What wrk printed."""
    total = re.search(r"(\d+) requests in ([\d.]+)(\w+)", said)
    if total is None:
        raise SystemExit(f"wrk said something else: {said}")
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", said)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    failed = sum(map(int, errors.groups())) if errors else 0
    return Run(
        requests=int(total[1]),
        seconds=float(total[2]) * _UNITS[total[3]],
        p50=_latency(said, "50%"),
        p99=_latency(said, "99%"),
        cpu=cpu,
        failed=failed + (int(refused[1]) if refused else 0),
    )


def _latency(said: str, share: str) -> float:
    found = re.search(rf"^\s+{share}\s+([\d.]+)(\w+)\s*$", said, re.MULTILINE)
    if found is None:
        raise SystemExit(f"wrk gave no {share} latency: {said}")
    return float(found[1]) * _UNITS[found[2]]
