# SPDX-License-Identifier: Apache-2.0
"""Several commits side by side: what each step towards a fast gateway has bought.

All are in front of the same upstreams and measured in turn, as `bench.gateway` measures its candidates, from checkouts
that are made for the run and removed after it.

Usage: python -m bench.gateway.compare [--rounds N] [--seconds S] [--busy SHARE] [COMMIT ...]

Without commits it takes those of `STEPS` and the one that is checked out, and writes ``bench/results/compare.json``.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench import busy
from bench.gateway import load
from bench.gateway.__main__ import upstream_of
from bench.gateway.peers import ROOT, Candidate, free_port, millrace, wait_for
from bench.gateway.upstream import MODEL

RESULTS = ROOT / "bench" / "results" / "compare.json"
STEPS = {
    "a route of the framework, aiohttp to the engine": "aeebd1b^",
    "a protocol class at the door, pooled connections, no task or timer for a request": "aeebd1b",
    "heads that came before are not read again": "e007b07",
    "what is there already is taken without waiting": "aae4588",
    "no coroutine for the usual request": "1e57fee",
    "a record by one constructor, nothing left for the collector": "c2ea979",
    "no coroutine for the usual stream": "13538f3",
    "fewer steps for record, price and prompt": "51c8cd7",
    "fewer steps for an event that comes alone": "0a8f1e7",
    "as it is now": "HEAD",
}
PLAIN, STREAMED = 32, 64
"""At once."""


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(prog="python -m bench.gateway.compare")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2)
    busy.add_argument(parser)
    parser.add_argument("commits", nargs="*")
    arguments = parser.parse_args()
    others = busy.watch(arguments.busy)
    steps = {commit: commit for commit in arguments.commits} or STEPS
    found: dict[str, dict[str, float]] = {name: {} for name in steps}
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        folder = Path(scratch)
        checkouts = {name: stack.enter_context(_checkout(commit, folder)) for name, commit in steps.items()}
        for kind, connections in (("plain", PLAIN), ("streamed", STREAMED)):
            for name, run in _measure(kind, connections, checkouts, arguments, others, folder).items():
                found[name][kind] = run
    print(json.dumps(found, indent=1))
    if not arguments.commits:
        run = {"rounds": arguments.rounds, "seconds": arguments.seconds}
        RESULTS.write_text(json.dumps({**others.describe(), **run, "steps": found}, indent=1) + "\n")


def _measure(
    kind: str,
    connections: int,
    checkouts: dict[str, Path],
    arguments: argparse.Namespace,
    others: busy.Others,
    folder: Path,
) -> dict[str, float]:
    """Microseconds of CPU of a request, or of an event of a stream; the median round."""
    port, stream = free_port(), kind == "streamed"
    body = load.request(260, stream)
    costs: dict[str, list[float]] = {name: [] for name in checkouts}
    with upstream_of(kind, port, folder), ExitStack() as stack:
        gateways = []
        for name, checkout in checkouts.items():
            place = folder / f"{kind}-{len(gateways)}"
            place.mkdir()
            gateways.append(stack.enter_context(millrace({MODEL: port}, place, name=name, checkout=checkout)))
            wait_for(gateways[-1], body, place / "log")
            gateways[-1].pause(stopped=True)
        for number in range(arguments.rounds):
            for gateway in gateways:
                costs[gateway.name].append(_run(gateway, body, connections, arguments.seconds, folder, stream))
                others.check()
            print(f"{kind}: round {number + 1}/{arguments.rounds}", file=sys.stderr, flush=True)
    return {name: round(statistics.median(each), 2) for name, each in costs.items()}


def _run(gateway: Candidate, body: bytes, connections: int, seconds: int, folder: Path, stream: bool) -> float:
    gateway.pause(stopped=False)
    load.run(gateway, body, connections, 1, folder)  # warm
    run = load.run(gateway, body, connections, seconds, folder)
    gateway.pause(stopped=True)
    if run.failed:
        raise SystemExit(f"{gateway.name}: {run.failed} of {run.requests} requests failed")
    return (run.cpu_per_event if stream else run.cpu / max(1, run.requests)) * 1e6


@contextmanager
def _checkout(commit: str, folder: Path) -> Iterator[Path]:
    """The files of a commit."""
    place = folder / f"at-{commit.replace('^', '-before')}"
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(place), commit], check=True)
    try:
        yield place
    finally:
        subprocess.run([*git, "remove", "--force", str(place)], check=True)


if __name__ == "__main__":
    main()
