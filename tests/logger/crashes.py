# SPDX-License-Identifier: Apache-2.0
"""Killing every process on a road, and holding what clients saw against what the log holds in the end.

A road is a producer and one or two loggers over one data_dir. Between two kills the others live on. A kill is at a
fault point, or at a moment that is random to the one that dies: after so many answers of the producer.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from contract.settings import SpoolSettings, StoreSettings
from logger import faults
from logger.faults import Point
from logger.producers import claim_slot
from logger.reader import SpoolReader
from logger.spool import Spool
from logger.store import Store
from tests.logger.process import Logger, until
from tests.logger.writer import Writer, tear

SMALL = {"spool": "{segment_bytes: 64KiB}", "store": "{batch_rows: 100, batch_delay: 50ms}"}
"""Settings with many segments and many commits."""
WRITER, CONNECTION = "writer", "connection"
REACH_SECONDS = 90
PATIENCE_SECONDS = 1.0
"""How long a logger has with what is written before more comes, or until it is killed anywhere."""


@dataclass(frozen=True)
class Part:
    """One logger process of a road."""

    role: str
    points: tuple[Point, ...]


Road = Mapping[str, Part]
DIRECT: Road = {"logger": Part("both", faults.INGESTER)}
KAFKA: Road = {"shipper": Part("ship", faults.SHIPPER), "ingester": Part("ingest", faults.CONSUMER)}


@dataclass(frozen=True)
class Kill:
    """Who dies, and where; None: at a random moment."""

    victim: str
    point: Point | None = None

    def __str__(self) -> str:
        return f"{self.victim} {self.point or 'anywhere'}"


def every_kill(road: Road) -> list[Kill]:
    """Each process at each of its points, and each once anywhere."""
    parts = {WRITER: faults.WRITER} | {name: part.points for name, part in road.items()}
    return [Kill(name, point) for name, points in parts.items() for point in (*points, None)]


class Seen:
    """What the clients of all the writers saw."""

    def __init__(self) -> None:
        self.opened: set[str] = set()
        self.closed: set[str] = set()
        self.lives = 0

    def take(self, lines: list[str]) -> None:
        """Takes note of whole lines of a writer."""
        for line in lines:
            what, _, identifier = line.partition(" ")
            (self.closed if what == "closed" else self.opened).add(identifier)


class Crashes:
    """A road under a hail of SIGKILLs."""

    def __init__(
        self, folder: Path, road: Road, log: Mapping[str, str], seed: int, cut: Callable[[], None] | None = None
    ) -> None:
        """Starts nothing yet; ``cut`` cuts every connection with the broker."""
        self.folder = folder
        self.spool = folder / "data" / "spool"
        self.seen = Seen()
        self.kills: Counter[str] = Counter()
        self.randomness = random.Random(seed)
        self.loggers: dict[str, Logger] = {}
        self.road = road
        self.plan = every_kill(road) + ([Kill(CONNECTION)] if cut else [])
        self._cut = cut
        self._log = log
        print(f"seed {seed}, {folder}")

    def kill(self, kill: Kill) -> None:
        """One kill, with answers before it, and everyone else alive."""
        for name in self.road:
            if name != kill.victim and (name not in self.loggers or not self.loggers[name].lives):
                self._start(name)
        if kill.victim == WRITER:
            self._kill_writer(kill)
        elif kill.victim == CONNECTION:
            assert self._cut is not None
            self.write()
            self._cut()
        else:
            self._kill_logger(kill)
        self.kills[str(kill)] += 1

    def write(self, fault: str | None = None) -> bool:
        """One life of a producer, which dies after so many answers, or at its fault before that; whether it did."""
        self.seen.lives += 1
        writer = Writer(self.spool, self.seen.lives, self.folder / "writer.log", fault)
        wanted = self.randomness.randrange(2, 300)
        heard = writer.said(wanted)
        at_fault = len(heard) < wanted
        if at_fault:
            writer.process.join(10)
            said = (self.folder / "writer.log").read_text()
            assert writer.process.exitcode == -9, f"seed {self.seen.lives}: {said}"
        else:
            self.kills[f"{WRITER} anywhere"] += 1
        self.seen.take(heard + writer.kill())
        return at_fault

    def settle(self) -> None:
        """A last start of everything: producers mend their spools, the loggers take all of it and end well."""
        ends = {}
        for name in self.road:
            if name not in self.loggers or not self.loggers[name].lives:
                self._start(name)
        for folder in self.spool.glob("gateway-*"):
            producer = None
            while producer is None:  # a logger may have it, to close what its producer left open
                producer = claim_slot(folder)
            spool = Spool(producer, SpoolSettings())
            ends[producer.name] = spool.next_seq
            spool.close()
            producer.release()
        last = self.loggers[list(self.road)[-1]]
        done = -1
        while (before := done) < sum(ends.values()):  # however much is waiting, it must go on
            until(lambda: taken(last) > before, what=f"ingestion of {ends} beyond {before}")
            done = taken(last)
        for name in self.road:
            assert self.loggers.pop(name).stop() == 0

    def compare(self) -> None:
        """Every answer that a client got whole is in the log complete; every one that began is there; each once."""
        store = Store(self.folder / "data" / "store" / "log.duckdb", StoreSettings())
        rows = store.fetch("SELECT id, status, producer, seq, prompt_tokens FROM invocations ORDER BY cursor")
        letters = store.fetch("SELECT * FROM dead_letters")
        next_seqs = store.next_seqs()
        store.close()
        counts = Counter(row["id"] for row in rows)
        assert [identifier for identifier, count in counts.items() if count > 1] == [], "twice in the log"
        complete = {row["id"] for row in rows if row["status"] == "complete"}
        assert self.seen.closed - complete == set(), "lost"
        assert self.seen.opened - set(counts) == set(), "opened and gone"
        assert {row["status"] for row in rows} <= {"complete", "interrupted"}
        assert all(row["prompt_tokens"] == int(row["id"].rpartition("_")[2]) for row in rows if row["id"] in complete)
        assert letters == []
        for producer, next_seq in next_seqs.items():
            seqs = [row["seq"] for row in rows if row["producer"] == producer]
            assert seqs == sorted(set(seqs)), f"{producer} is out of order"
            reader = SpoolReader(self.spool / producer, producer, next_seq)
            assert reader.read() == []
            reader.close()

    def _kill_writer(self, kill: Kill) -> None:
        if kill.point is None:
            self.write()
            return
        count = self.randomness.randrange(1, 60) if kill.point == "after_append" else 1

        def reached() -> bool:
            if kill.point == "after_cut":
                tear(self.spool)
            return self.write(f"{kill.point}:{count}")

        self._until(reached, kill)

    def _kill_logger(self, kill: Kill) -> None:
        if kill.victim in self.loggers and self.loggers[kill.victim].lives:
            self.loggers[kill.victim].kill()
            self.kills[f"{kill.victim} anywhere"] += 1
        fault = None if kill.point is None else f"{kill.point}:{self.randomness.randrange(1, 4)}"
        logger = self._start(kill.victim, fault)

        def reached() -> bool:
            self.write()
            logger.process.join(PATIENCE_SECONDS)
            return not logger.lives

        if fault is None:
            self.write()
            logger.process.join(self.randomness.uniform(0.0, PATIENCE_SECONDS))
            logger.kill()
        else:
            self._until(reached, kill)
            assert logger.wait() == -9, logger.said()

    def _until(self, reached: Callable[[], bool], kill: Kill) -> None:
        deadline = time.monotonic() + REACH_SECONDS
        while not reached():
            said = {name: logger.said()[-2000:] for name, logger in self.loggers.items()}
            assert time.monotonic() < deadline, f"{kill} was not reached in {REACH_SECONDS} s: {said}"

    def _start(self, name: str, fault: str | None = None) -> Logger:
        self.loggers[name] = Logger(
            self.folder / name, role=self.road[name].role, fault=fault, log=self._log, data=self.folder / "data",
            hasty=True,
        )  # fmt: skip
        return self.loggers[name]


def hail(road: Callable[[int], Crashes], kills: int) -> Counter[str]:
    """Kills everyone at each of their points, and again and again up to so many ``kills``; a fresh road for each 100.

    Returns what died where and how often. Beside the kills that are asked for, producers and loggers die of those that
    start the next one.
    """
    died: Counter[str] = Counter()
    done = number = 0
    while done < max(kills, 1):
        crashes = road(number)
        plan = crashes.plan
        for _ in range(max(1, min(100, kills - done) // len(plan))):
            for kill in plan:
                crashes.kill(kill)
                done += 1
            crashes.randomness.shuffle(plan)
        crashes.settle()
        crashes.compare()
        died += crashes.kills
        number += 1
        print(f"{done} kills as asked, {died.total()} in all; nothing lost, nothing twice", flush=True)
    return died


def taken(logger: Logger) -> int:
    """Records of all producers that are committed; 0 while the logger does not answer."""
    report = logger.health()
    held_up = {name for name in logger.errors() if name != "broker"}
    assert held_up == set(), report
    return sum(row["next_seq"] for row in report.get("positions", []))
