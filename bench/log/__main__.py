# SPDX-License-Identifier: Apache-2.0
"""Measures what the log costs and carries, prints it, and writes ``bench/results/log.json``.

Usage: python -m bench.log [--only PART ...] [--rounds N] [--seconds S] [--rows N] [--records N] [--busy SHARE]

Parts: ``append``, microseconds for each durability; ``direct``, records a second from spool to DuckDB; ``broker``, the
same through a real broker over TCP; ``beside``, a gateway under full load with the logger stopped and at work;
``usage``, the sums of a day over an export of many rows; ``memory``, that of a logger with a backlog; and ``clients``,
kafka-python beside confluent-kafka, only where it is named, as the latter has to be installed first. Each stands for
itself: what is not measured now keeps the figures it had. On a busy machine it refuses.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bench import busy
from bench.log import reading, roads
from bench.log.beside import beside
from bench.log.clients import clients
from bench.log.records import average_bytes

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench" / "results" / "log.json"
PARTS = ("append", "direct", "broker", "beside", "usage", "memory")


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(prog="python -m bench.log")
    parser.add_argument("--only", nargs="+", choices=(*PARTS, "clients"), default=PARTS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of load, where a gateway has some")
    parser.add_argument("--rows", type=int, default=100_000_000, help="of the export that ``usage`` is about")
    parser.add_argument("--records", type=int, default=300_000, help="of the backlog that ``memory`` is about")
    busy.add_argument(parser)
    arguments = parser.parse_args()
    if (os.cpu_count() or 1) < 2:
        raise SystemExit("two cores are needed: one for the gateway, one for everything else")
    figures = json.loads(RESULTS.read_text())
    for part in arguments.only:
        others = busy.watch(arguments.busy)
        found = _measure(part, arguments, others)
        figures[part] = {**others.describe(), "rounds": arguments.rounds, "record_bytes": average_bytes(), **found}
        print(part, json.dumps(found, indent=1), flush=True)
        RESULTS.write_text(json.dumps({name: figures[name] for name in sorted(figures)}, indent=1) + "\n")
    print(f"written to {RESULTS.relative_to(ROOT)}")


def _measure(part: str, arguments: argparse.Namespace, others: busy.Others) -> dict[str, Any]:
    rounds, seconds = arguments.rounds, arguments.seconds
    if part == "append":
        return {how: _median(partial(roads.append, durability=how), rounds, others) for how in roads.APPENDS}
    if part == "beside":
        return _once(lambda at: beside(at, rounds, seconds, others))
    if part in ("usage", "memory"):
        found: dict[str, Any] = _once(
            lambda at: (
                reading.usage_of_a_day(at, arguments.rows, rounds)
                if part == "usage"
                else reading.memory_of_a_backlog(at, arguments.records)
            )
        )
        others.check()
        return found
    return _median({"direct": roads.direct, "broker": roads.through_broker, "clients": clients}[part], rounds, others)


def _median(measure: Callable[[Path], roads.Figures], rounds: int, others: busy.Others) -> roads.Figures:
    found = []
    for number in range(rounds):
        found.append(_once(measure))
        others.check()
        print(f"round {number + 1}/{rounds}: {found[-1]}", file=sys.stderr, flush=True)
    return {name: statistics.median(each[name] for each in found) for name in found[0]}


def _once(measure: Callable[[Path], roads.Figures]) -> roads.Figures:
    with tempfile.TemporaryDirectory() as folder:
        return measure(Path(folder))


if __name__ == "__main__":
    main()
