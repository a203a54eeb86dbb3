# SPDX-License-Identifier: Apache-2.0
"""Prints the table and writes ``bench/results/gateway.json``.

Every candidate runs on one core, the client and the upstream on the other. Rounds are interleaved, so that what else
the machine does hits all alike, and the median round counts. On a busy machine it refuses.

Usage: python -m bench.gateway [--rounds N] [--seconds S] [--only KIND] [--without litellm ...] [--busy SHARE]

Kinds: ``plain``; ``streamed``, 32 events 10 ms apart; ``running``, the same with usage on every event, as the gateway
asks vLLM for; ``tokens``, also with token ids and log-probabilities, which the log then keeps; ``beside``, plain
requests alone and beside 256 slow streams.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from bench import busy
from bench.gateway import load, upstream
from bench.gateway.peers import OTHER_CORE, Candidate, candidates, free_port, millrace, process, wait_for

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench" / "results" / "gateway.json"
NAMES = ("nothing", "millrace", "vllm-router", "litellm")
CROWD = 256
"""Connections, so many that LiteLLM's proxy does not end one request in the seconds of a run."""


@dataclass(frozen=True)
class Scenario:
    """One row of the table."""

    kind: str
    connections: int
    bytes: int

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.kind}, {self.connections} at once, {self.bytes} B"


PLAIN = [Scenario("plain", connections, size) for size in (260, 32_000) for connections in (1, 32, 256)]
STREAMED = [Scenario("streamed", connections, 260) for connections in (1, 64, 256)]
ASKED = [Scenario(kind, 64, 260) for kind in ("running", "tokens")]
SLOW_STREAMS, SLOW_SECONDS = 256, 0.1
"""How many, and from one event to the next."""
KINDS = {"plain": PLAIN, "streamed": STREAMED, "running": ASKED[:1], "tokens": ASKED[1:]}


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(prog="python -m bench.gateway")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--only", choices=(*KINDS, "beside"))
    parser.add_argument("--without", nargs="*", default=[], choices=NAMES)
    busy.add_argument(parser)
    arguments = parser.parse_args()
    if (os.cpu_count() or 1) < 2:
        raise SystemExit("two cores are needed: one for the gateway, one for the client and the upstream")
    others = busy.watch(arguments.busy)
    names = [name for name in NAMES if name not in arguments.without]
    found: dict[Scenario, dict[str, list[load.Run]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for kind, scenarios in KINDS.items():
            if arguments.only in (None, kind):
                folder = Path(scratch, kind)
                folder.mkdir()
                able = [name for name in names if kind in ("plain", "streamed") or name != "litellm"]
                found |= _measure(kind, scenarios, able, arguments.rounds, arguments.seconds, folder, others)
        slowed = None
        if arguments.only in (None, "beside"):
            slowed = _beside_slow_streams(arguments.rounds, arguments.seconds, Path(scratch))
    medians = {scenario: {name: _median(runs) for name, runs in by.items() if runs} for scenario, by in found.items()}
    if medians:
        Console(width=110).print(_table(medians, names))
    if slowed is not None:
        told = ", ".join(f"{name} {p99 * 1e3:.1f} ms" for name, p99 in slowed.items())
        print(f"p99 of plain requests, 32 at once: {told} ({SLOW_STREAMS} slow streams)")
    _write(medians, slowed, arguments.rounds, arguments.seconds, others)


def _measure(
    kind: str, scenarios: list[Scenario], names: list[str], rounds: int, seconds: int, folder: Path, others: busy.Others
) -> dict[Scenario, dict[str, list[load.Run]]]:
    found: dict[Scenario, dict[str, list[load.Run]]] = {each: {name: [] for name in names} for each in scenarios}
    port = free_port()
    with (
        upstream_of(kind, port, folder),
        candidates(names, port, load.request(260, kind != "plain"), folder, kind == "tokens") as gateways,
    ):
        for number in range(rounds):
            for scenario in scenarios:
                body = load.request(scenario.bytes, kind != "plain")
                for gateway in gateways:
                    if gateway.name == "litellm" and scenario.connections == CROWD:
                        continue
                    found[scenario][gateway.name].append(_run(gateway, body, scenario, seconds, folder, others))
                rates = ", ".join(f"{name} {runs[-1].rate:,.0f}/s" for name, runs in found[scenario].items() if runs)
                print(f"round {number + 1}/{rounds}, {scenario.title}: {rates}", file=sys.stderr, flush=True)
    return found


def _run(
    gateway: Candidate, body: bytes, scenario: Scenario, seconds: int, folder: Path, others: busy.Others
) -> load.Run:
    gateway.pause(stopped=False)
    wait_for(gateway, body, folder / gateway.name / "log")  # it may still have to do with what the last run left it
    load.run(gateway, body, scenario.connections, 1, folder)  # warm
    result = load.run(gateway, body, scenario.connections, seconds, folder)
    gateway.pause(stopped=True)
    if result.failed:
        print(f"{gateway.name}: {result.failed} of {result.requests} failed ({scenario.title})", file=sys.stderr)
    others.check()
    return result


def _beside_slow_streams(rounds: int, seconds: int, folder: Path) -> dict[str, float]:
    """The p99 of plain requests in seconds, alone and beside streams through the same gateway."""
    plain, slow, found = free_port(), free_port(), dict[str, list[float]](alone=[], beside=[])
    place, body = folder / "beside", load.request(260, False)
    place.mkdir()
    with (
        upstream_of("plain", plain, folder),
        upstream_of("bare", slow, folder, SLOW_SECONDS),
        millrace({upstream.MODEL: plain, "slow": slow}, place) as gateway,
    ):
        wait_for(gateway, body, place / "log")
        for _ in range(rounds):
            found["alone"].append(load.run(gateway, body, 32, seconds, place).p99)
            with load.beside(gateway, load.request(260, True, "slow"), SLOW_STREAMS, place):
                found["beside"].append(load.run(gateway, body, 32, seconds, place).p99)
    return {name: statistics.median(values) for name, values in found.items()}


@contextmanager
def upstream_of(kind: str, port: int, folder: Path, interval: float = upstream.INTERVAL) -> Iterator[None]:
    """What all candidates of that kind stand before."""
    if kind == "plain":
        command = ["nginx", "-c", str(upstream.nginx_config(folder, port)), "-p", str(folder)]
    else:
        how = kind if kind in ("running", "tokens") else "bare"
        command = [sys.executable, "-m", "bench.gateway.upstream", str(port), how, str(interval)]
    with process(command, OTHER_CORE, folder / "upstream.log", None if kind == "plain" else ROOT):
        time.sleep(0.5)
        yield


def _median(runs: list[load.Run]) -> dict[str, float]:
    fields = {
        name: statistics.median(getattr(run, name) for run in runs) for name in ("rate", "p50", "p99", "cpu_per_event")
    }
    return {
        **fields,
        "failed": sum(run.failed for run in runs),
        "cpu_per_request": statistics.median(run.cpu_per_request for run in runs),
    }


def _table(medians: dict[Scenario, dict[str, dict[str, float]]], names: list[str]) -> Table:
    made = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title="requests/s · p50 · p99; streams: CPU per event",
        title_justify="left",
    )
    made.add_column("", no_wrap=True)
    for name in names:
        made.add_column(name, justify="right")
    for scenario, by in medians.items():
        cells = []
        for name in names:
            if name not in by:
                cells.append("")
                continue
            one = by[name]
            cell = f"{one['rate']:,.0f}/s\n{one['p50'] * 1e3:.2f} · {one['p99'] * 1e3:.2f} ms"
            if scenario.kind != "plain" and name != "nothing":
                cell += f"\n{one['cpu_per_event'] * 1e6:.1f} µs"
            cells.append(cell + (f"\n{one['failed']:.0f} failed" if one["failed"] else ""))
        made.add_row(scenario.title, *cells)
    return made


def _write(
    medians: dict[Scenario, dict[str, dict[str, float]]],
    slowed: dict[str, float] | None,
    rounds: int,
    seconds: int,
    others: busy.Others,
) -> None:
    document = {
        **others.describe(),
        "rounds": rounds,
        "seconds": seconds,
        "p99_of_plain_requests": slowed,
        "scenarios": [{**asdict(scenario), "medians": by} for scenario, by in medians.items()],
    }
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(document, indent=1))
    print(f"written to {RESULTS.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
