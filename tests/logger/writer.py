# SPDX-License-Identifier: Apache-2.0
"""A producer in a process of its own: ``python -m tests.logger.writer SPOOL FIRST``.

Writes answers for ever, streams (open entry, then close) and whole ones, and prints a line for each once it is safe:
what a client would have seen.
"""

import sys
from itertools import count
from pathlib import Path

from contract.records import Status
from contract.settings import SpoolSettings
from logger.spool import Spool, claim_producer
from tests.logger.records import invocation

SETTINGS = SpoolSettings(segment_bytes=2**16)

if __name__ == "__main__":
    spool = Spool(claim_producer(Path(sys.argv[1]), "gateway"), SETTINGS)
    sys.stdout.write("ready\n")
    for number in count(int(sys.argv[2])):
        identifier = f"inv_{number}"
        if number % 2:
            spool.append(invocation(identifier, Status.OPEN, messages=None, choices=None))
            sys.stdout.write(f"opened {identifier}\n")
        spool.append(invocation(identifier, prompt_tokens=number, messages=f'"{"x" * 900}"'))
        sys.stdout.write(f"closed {identifier}\n")
        sys.stdout.flush()
