# SPDX-License-Identifier: Apache-2.0
"""Straight from the spools into the store, exactly once.

One round: read a little from every producer; when the batch is large or old enough, commit it; when whole segments
are behind the committed positions, checkpoint and delete them. Killed anywhere, the next start reads on from the
positions that the store committed.

The order of the last three matters: DuckDB drops a torn end of its write-ahead log without a word, so a segment may
go only once a checkpoint has moved its records into the file itself.
"""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import duckdb

from contract.errors import SpoolError
from contract.settings import LogSettings
from logger.batch import Intake
from logger.stage import Lag, describe, nowhere
from logger.store import Store
from logger.tail import Tail, measure, producer_folders

log = logging.getLogger(__name__)

MAX_BATCH_BYTES = 32 * 2**20
READ_BYTES = 2**20
IDLE_SECONDS = 0.05
LOOK_SECONDS = 0.5
CHECKPOINT_SECONDS = 1.0
RETRY_SECONDS = 1.0


class DirectIngester:
    """Follows every producer's spool on this machine. For one thread."""

    name = "ingest"

    def __init__(
        self, store: Store, spool: Path, settings: LogSettings, reach: Callable[[str], None] = nowhere
    ) -> None:
        """Starts from the store's positions.

        Args:
            store: where the rows go.
            spool: the folder with a folder for each producer.
            settings: batch sizes and the spool's own settings.
            reach: called with the name of each fault point as it is passed; tests die there.
        """
        self.lag: dict[str, Lag] = {}
        """Producer -> lag, looked at every half second."""
        self.errors: dict[str, str] = {}
        """Producer (or ``store``) -> what stopped it."""
        self._store = store
        self._spool = spool
        self._settings = settings
        self._reach = reach
        self._intake = Intake(store.next_seqs())
        self._last_ids = store.last_ids()
        self._committed = store.next_seqs()
        self._tails: dict[str, Tail] = {}
        self._began = self._looked = self._checkpointed = 0.0

    @property
    def duplicates(self) -> int:
        """Records that were dropped because the store had them."""
        return self._intake.duplicates

    def run(self, stop: threading.Event) -> None:
        """Works until ``stop`` is set, then commits what it has."""
        while not stop.is_set():
            if not self.step():
                stop.wait(IDLE_SECONDS)
        self.finish()

    def step(self) -> bool:
        """One round; whether anything was read."""
        read = 0
        for folder in producer_folders(self._spool):
            if folder.name not in self.errors:
                read += self._read(folder)
        if self._is_due():
            self._commit()
        now = time.monotonic()
        if now - self._checkpointed >= CHECKPOINT_SECONDS:
            self._clear_away()
        if now - self._looked >= LOOK_SECONDS:
            self._look()
        return read > 0

    def finish(self) -> None:
        """Commits the batch under way and lets go of the spools."""
        if self._intake.batch.records:
            self._commit(patient=False)
        for tail in self._tails.values():
            tail.close()

    def _read(self, folder: Path) -> int:
        producer = folder.name
        tail = self._tails.get(producer)
        if tail is None:
            wanted = self._intake.next_seq(producer)
            tail = self._tails[producer] = Tail(folder, wanted, self._last_ids.get(producer))
        room = self._settings.store.batch_rows - self._intake.batch.records
        try:
            entries = tail.read(READ_BYTES, room) if room > 0 else []
            for entry in entries:
                if not self._intake.batch.records:
                    self._began = time.monotonic()
                self._intake.take(producer, entry.seq, entry.payload)
            if not entries and room > 0 and tail.adopt(self._settings.spool):
                log.warning("closed the open answers of %s, whose process is gone", producer)
        except (SpoolError, OSError) as error:
            self.errors[producer] = describe(error)
            log.error("stopped reading %s: %s", producer, describe(error))
            return 0
        return len(entries)

    def _is_due(self) -> bool:
        batch, store = self._intake.batch, self._settings.store
        if not batch.records:
            return False
        full = batch.records >= store.batch_rows or batch.bytes >= MAX_BATCH_BYTES
        return full or time.monotonic() - self._began >= store.batch_delay

    def _commit(self, patient: bool = True) -> None:
        batch = self._intake.finish()
        for producer in batch.next_seqs:
            self._tails[producer].sync()
        self._reach("before_commit")
        while True:
            try:
                self._store.commit(batch)
                break
            except (duckdb.IOException, duckdb.OutOfMemoryException) as error:
                # Nothing of it is in; the records are safe in their spools, and waiting costs no answer anything.
                if not patient:
                    raise
                self.errors["store"] = describe(error)
                log.error("the store does not take a batch, trying again: %s", describe(error))
                time.sleep(RETRY_SECONDS)
        self.errors.pop("store", None)
        self._committed |= batch.next_seqs
        self._reach("after_commit")

    def _clear_away(self) -> None:
        self._checkpointed = time.monotonic()
        paths = [
            path
            for producer, tail in self._tails.items()
            if producer in self._committed
            for path in tail.deletable(self._committed[producer])
        ]
        if not paths:
            return
        self._reach("before_checkpoint")
        if self._store.checkpoint():
            self._reach("after_checkpoint")
            for path in paths:
                path.unlink()
                self._reach("after_delete")

    def _look(self) -> None:
        self._looked = time.monotonic()
        self.lag = {producer: measure(tail) for producer, tail in self._tails.items() if producer not in self.errors}
