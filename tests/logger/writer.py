# SPDX-License-Identifier: Apache-2.0
"""A producer in a process of its own.

It writes answers for ever, streams (open entry, then close) and whole ones, and tells of each once it is safe: what a
client would have seen.
"""

import os
from collections.abc import Iterator
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path

from contract.records import Status
from contract.settings import SpoolSettings
from logger.frames import HEADER
from tests.logger.process import FORKS, fork
from tests.logger.records import invocation

SETTINGS = SpoolSettings(segment_bytes=2**16)
TORN = HEADER.pack(900, 1) + b"x" * 100
"""The beginning of a record, as a death of the machine leaves it."""


class Writer:
    """One life of a producer. Its ids begin with ``inv_LIFE_``."""

    def __init__(self, spool: Path, life: int, output: Path, fault: str | None = None) -> None:
        """Starts it; ``fault`` as ``POINT:COUNT``."""
        heard, told = FORKS.Pipe(duplex=False)
        self.process = fork(_write, spool, life, told, output=output, fault=fault)
        told.close()
        self._lines = os.fdopen(os.dup(heard.fileno()))
        heard.close()

    def said(self, at_most: int) -> list[str]:
        """The next whole lines; fewer where it has died."""
        return list(self._whole(at_most))

    def kill(self) -> list[str]:
        """SIGKILL; what it had said and nobody had heard."""
        self.process.kill()
        rest = self.said(10**9)
        self._lines.close()
        self.process.join(10)
        self.process.close()
        return rest

    def _whole(self, at_most: int) -> Iterator[str]:
        for _ in range(at_most):
            line = self._lines.readline()
            if not line.endswith("\n"):
                return
            yield line[:-1]


def _write(spool: Path, life: int, told: Connection) -> None:
    from logger.spool import Spool, claim_producer

    writing = Spool(claim_producer(spool, "gateway"), SETTINGS)
    for number in count():
        identifier = f"inv_{life}_{number}"
        if number % 2:
            writing.append(invocation(identifier, Status.OPEN, messages=None, choices=None))
            os.write(told.fileno(), f"opened {identifier}\n".encode())
        writing.append(invocation(identifier, prompt_tokens=number, messages=f'"{"x" * 900}"'))
        os.write(told.fileno(), f"closed {identifier}\n".encode())


def tear(spool: Path) -> None:
    """Leaves the beginning of a record at the end of every spool that nobody writes."""
    from logger.producers import claim_slot
    from logger.segments import first_seqs, segment_path

    for folder in spool.glob("gateway-*"):
        producer = claim_slot(folder)
        if producer is None:
            continue
        if firsts := first_seqs(folder):
            with segment_path(folder, firsts[-1]).open("ab") as newest:
                newest.write(TORN)
        producer.release()
