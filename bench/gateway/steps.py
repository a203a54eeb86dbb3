# SPDX-License-Identifier: Apache-2.0
"""Where the CPU of a plain request goes, step by step, without sockets: microseconds of each step while requests pass.

The door and the connection to the engine are real, their transports are not, and the engine's answer is a constant. A
step is timed where it stands in the flow, not in a loop of its own, in which everything it touches would be at hand.

Usage: python -m bench.gateway.steps [--requests N]
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

from bench.gateway import load, upstream
from contract.database import open_database
from contract.seed import DEFAULT_PROJECT, seed
from contract.settings import parse_settings
from gateway import relay
from gateway.app import create_app, door
from gateway.connection import Connection
from gateway.entry import Entry
from gateway.keys import KeyRing, create_key
from gateway.limits import Limits, Reservation
from gateway.metrics import Metrics
from gateway.shape import Shape
from gateway.turn import Turn
from gateway.upstream import Upstream
from gateway.usage import Meter
from gateway.worker import Worker
from logger.spool import Spool

RESULTS = Path(__file__).resolve().parents[1] / "results" / "steps.json"
STEPS: dict[str, list[tuple[Any, str]]] = {
    "key, limits": [
        (KeyRing, "authenticate"), (Worker, "accept"), (Limits, "reserve"), (Reservation, "settle"),
    ],
    "id": [(relay, "new_invocation_id")],
    "read the body": [(relay, "usual_chat")],
    "rebuild it for the engine": [(relay.Exchange, "_wire")],
    "send it": [(Upstream, "send")],
    "read the answer, meter it": [(Meter, "read")],
    "cut it for the client": [(Shape, "whole")],
    "make the record": [(Entry, "close")],
    "write it to the spool": [(Spool, "append")],
    "metrics": [(Metrics, "ended"), (Metrics, "answered")],
    "answer the client": [(Turn, "_head"), (Turn, "_end")],
}  # fmt: skip
"""Functions of which none calls another."""
SETTINGS = """
data_dir: {folder}
engines: [{{name: bench, url: "http://127.0.0.1:9", base_model: {model}}}]
models: {{{model}: {{engine: bench, price: {{input: 0.1, cached_input: 0.05, output: 0.2}}}}}}
log: {{spool: {{max_bytes: 8GiB}}}}
"""


class Transport(asyncio.Transport):
    """Takes everything, and calls ``peer`` with it."""

    def __init__(self, peer: Callable[[bytes], None]) -> None:
        super().__init__()
        self._peer = peer

    def write(self, data: Any) -> None:
        """As any transport's."""
        self._peer(data)

    def is_closing(self) -> bool:
        """Never."""
        return False

    def abort(self) -> None:
        """There is nothing to break off."""


async def measure(requests: int, folder: Path) -> dict[str, float]:
    """Microseconds of every step and of the whole, medians."""
    settings = parse_settings(SETTINGS.format(folder=folder, model=upstream.MODEL))
    database = open_database(settings.database_url)
    with database.begin() as connection:
        seed(connection, settings)
        secret = create_key(connection, DEFAULT_PROJECT, "bench").secret
    worker = Worker(settings)
    config = uvicorn.Config(create_app(worker), log_config=None, ws="none", http=door(worker), lifespan="off")
    config.load()
    await worker.start()
    replica: Any = worker.routes.replicas["bench"][0]
    replica.served, replica.healthy = frozenset({upstream.MODEL}), True
    worker.routes.snapshot.resolve(upstream.MODEL)

    state = uvicorn.server.ServerState()
    state.default_headers = [(b"date", b"Mon, 23 Nov 2026 12:00:00 GMT")]
    answered: list[bytes] = []
    make: Any = config.http_protocol_class
    client = make(config=config, server_state=state, app_state={})
    client.connection_made(Transport(answered.append))
    engine = Connection()
    engine.connection_made(Transport(lambda _: None))
    worker.upstream._all[engine] = worker.upstream._idle.setdefault(replica.origin, [engine])

    body, whole = load.request(260, False), upstream.answer()
    request = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\ncontent-length: %d\r\n\r\n%b"
        % (secret.encode(), len(body), body)
    )
    answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(whole), whole)

    def one() -> None:
        client.data_received(request)
        engine.data_received(answer)

    def timed(number: int) -> float:
        took = []
        for _ in range(number):
            began = time.perf_counter_ns()
            one()
            took.append(time.perf_counter_ns() - began)
        return statistics.median(took) / 1e3

    timed(requests)
    found = {name: sum(_step(owner, each, one, requests) for owner, each in step) for name, step in STEPS.items()}
    everything = timed(requests)
    found["the rest: two parsers, objects, calls"] = everything - sum(found.values())
    found["everything"] = everything
    if len(answered) < requests or not all(head.startswith(b"HTTP/1.1 200") for head in answered):
        raise SystemExit(f"not every request was answered: {answered[:1]}")
    await worker.close()
    return found


def _step(owner: Any, name: str, one: Callable[[], None], requests: int) -> float:
    """Microseconds of one function in a request, however often it is called there."""
    function, took = getattr(owner, name), [0]

    def watched(*arguments: Any, **named: Any) -> Any:
        began = time.perf_counter_ns()
        result = function(*arguments, **named)
        took[-1] += time.perf_counter_ns() - began - cost
        return result

    cost = _of_a_watch()
    setattr(owner, name, watched)
    try:
        for _ in range(requests):
            one()
            took.append(0)
    finally:
        setattr(owner, name, function)
    return statistics.median(took[:-1]) / 1e3


def _of_a_watch() -> int:
    clock = time.perf_counter_ns
    return int(statistics.median([-(clock() - clock()) for _ in range(10_000)]))


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(prog="python -m bench.gateway.steps")
    parser.add_argument("--requests", type=int, default=3000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = uvloop.run(measure(arguments.requests, Path(folder)))
    for name, microseconds in found.items():
        print(f"{name:38s} {microseconds:6.2f} µs")
    RESULTS.write_text(json.dumps({name: round(value, 2) for name, value in found.items()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
