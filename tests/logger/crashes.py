# SPDX-License-Identifier: Apache-2.0
"""Killing producers and loggers, and holding what clients saw against what the log holds in the end."""

import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from contract.settings import SpoolSettings, StoreSettings
from logger.reader import SpoolReader
from logger.spool import Spool, claim_producer
from logger.store import Store
from tests.logger.process import ROOT, Logger, until

SMALL = {"spool": "{segment_bytes: 64KiB}", "store": "{batch_rows: 100, batch_delay: 50ms}"}
"""Settings with many segments and many commits."""
Point = tuple[str, int] | None
"""A fault point and how often it is passed alive; None: a random moment."""


class Seen:
    """What the clients of all the writers saw."""

    def __init__(self) -> None:
        self.opened: set[str] = set()
        self.closed: set[str] = set()
        self.next_number = 0

    def take(self, lines: Sequence[str]) -> None:
        """Takes note of whole lines of a writer."""
        for line in lines:
            what, _, identifier = line.rstrip("\n").partition(" ")
            if identifier and line.endswith("\n"):
                (self.closed if what == "closed" else self.opened).add(identifier)
                # A number is used again only if nobody can have seen it: one further covers the one under way.
                self.next_number = max(self.next_number, int(identifier.removeprefix("inv_")) + 2)


def write_and_die(spool: Path, seen: Seen, randomness: random.Random) -> None:
    """A writer that is killed after a random number of answers."""
    writer = subprocess.Popen(
        [sys.executable, "-m", "tests.logger.writer", str(spool), str(seen.next_number)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert writer.stdout is not None
    lines = [writer.stdout.readline() for _ in range(randomness.randrange(2, 400))]
    writer.kill()
    seen.take([*lines, *writer.stdout.readlines()])
    writer.stdout.close()
    writer.wait(10)


def run_and_die(folder: Path, point: Point, seen: Seen, randomness: random.Random, log: Mapping[str, str]) -> None:
    """A logger that is killed at a fault point or a random moment, while writers come and go."""
    logger = Logger(folder, die_at=point, log=log)
    spool = folder / "data" / "spool"
    if point is None:
        write_and_die(spool, seen, randomness)
        time.sleep(randomness.uniform(0.0, 1.5))
    else:
        deadline = time.monotonic() + 90
        while logger.process.poll() is None:
            assert time.monotonic() < deadline, f"{point} was never reached: {logger.said()}"
            write_and_die(spool, seen, randomness)
        assert logger.process.returncode == -9, logger.said()
    logger.kill()


def settle(folder: Path, log: Mapping[str, str]) -> None:
    """A last start of everything: the producer mends its spool, the logger takes all of it and ends well."""
    producer = claim_producer(folder / "data" / "spool", "gateway")
    spool = Spool(producer, SpoolSettings())
    end = spool.next_seq
    spool.close()
    producer.release()
    logger = Logger(folder, log=log)
    done = -1
    while (before := done) < end:  # however much is waiting, it must go on
        until(lambda: taken(logger) > before, what=f"ingestion of {end} records beyond {before}")
        done = taken(logger)
    assert logger.stop() == 0, logger.said()


def compare(folder: Path, seen: Seen) -> None:
    """Every answer that a client got whole is in the log complete; every one that began is there; each once."""
    store = Store(folder / "data" / "store" / "log.duckdb", StoreSettings())
    rows = store.fetch("SELECT id, status, seq, prompt_tokens FROM invocations ORDER BY seq")
    letters = store.fetch("SELECT * FROM dead_letters")
    ((producer, next_seq),) = store.next_seqs().items()
    store.close()
    counts = Counter(row["id"] for row in rows)
    assert [identifier for identifier, count in counts.items() if count > 1] == [], "twice in the log"
    complete = {row["id"] for row in rows if row["status"] == "complete"}
    assert seen.closed - complete == set(), "lost"
    assert seen.opened - set(counts) == set(), "opened and gone"
    assert {row["status"] for row in rows} <= {"complete", "interrupted"}
    assert all(row["prompt_tokens"] == int(row["id"].removeprefix("inv_")) for row in rows if row["id"] in complete)
    assert letters == []
    assert [row["seq"] for row in rows] == sorted({row["seq"] for row in rows})
    reader = SpoolReader(folder / "data" / "spool" / producer, producer, next_seq)
    assert reader.read() == []
    reader.close()


def taken(logger: Logger) -> int:
    """The largest committed position of any producer; 0 while the logger does not answer."""
    report = logger.health()
    held_up = {name for name in logger.errors() if name != "broker"}
    assert held_up == set(), report
    return max((row["next_seq"] for row in report.get("positions", [])), default=0)
