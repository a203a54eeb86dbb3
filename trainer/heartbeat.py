# SPDX-License-Identifier: Apache-2.0
"""Keeps a job's lease while a long step runs, and notices when it is lost."""

import threading

import sqlalchemy as sa

from contract.errors import OperatorError
from trainer import jobs

BEAT_SECONDS = jobs.LEASE_SECONDS / 4


class JobLost(OperatorError):
    """Another worker holds the job now; this one must not write anything more about it."""


class Heartbeat:
    """A context manager: a thread that renews the lease every `BEAT_SECONDS`."""

    def __init__(self, database: sa.Engine, job: str, holder: str, beat: float = BEAT_SECONDS) -> None:
        self._database = database
        self._job = job
        self._holder = holder
        self._beat = beat
        self._stop = threading.Event()
        self._lost = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def check(self) -> None:
        """Call it before writing about the job.

        Raises:
            JobLost: the lease went to another worker.
        """
        if self._lost.is_set():
            raise JobLost(f"job {self._job} is held by another worker now")

    def _run(self) -> None:
        while not self._stop.wait(self._beat):
            try:
                with self._database.begin() as connection:
                    held = jobs.renew(connection, self._job, self._holder)
            except sa.exc.OperationalError:
                continue  # a busy database: the lease outlives three beats
            if not held:
                self._lost.set()
                return
