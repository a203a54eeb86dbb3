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
from pathlib import Path

from contract.errors import SpoolError
from contract.settings import LogSettings
from logger.commit import Committer
from logger.faults import reach
from logger.stage import Lag, describe
from logger.store import Store
from logger.tail import Tail, measure, producer_folders

log = logging.getLogger(__name__)

READ_BYTES = 2**20
IDLE_SECONDS = 0.05
LOOK_SECONDS = 0.5
CHECKPOINT_SECONDS = 1.0


class DirectIngester:
    """Follows every producer's spool on this machine. For one thread."""

    name = "ingest"
    cut = 0

    def __init__(self, store: Store, spool: Path, settings: LogSettings) -> None:
        """Starts from the store's positions.

        Args:
            store: where the rows go.
            spool: the folder with a folder for each producer.
            settings: batch sizes and the spool's own settings.
        """
        self.lag: dict[str, Lag] = {}
        self.errors: dict[str, str] = {}
        self._spool = spool
        self._settings = settings
        self._committer = Committer(store, settings.store, self.errors)
        self._last_ids = store.last_ids()
        self._committed = store.next_seqs()
        self._tails: dict[str, Tail] = {}
        self._looked = self._cleared = float("-inf")

    @property
    def duplicates(self) -> int:
        """Records met again and dropped."""
        return self._committer.intake.duplicates

    def run(self, stop: threading.Event) -> None:
        """Works until ``stop`` is set, then commits what it has."""
        self._committer.stop = stop
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
        if self._committer.is_due():
            self._commit()
        now = time.monotonic()
        if now - self._cleared >= CHECKPOINT_SECONDS:
            self._cleared = now
            self._clear_away()
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            self.lag = measure(self._tails, self.errors)
        return read > 0

    def finish(self) -> None:
        """Commits the batch under way and lets go of the spools."""
        if self._committer.intake.batch.records:
            self._commit(patient=False)
        for tail in self._tails.values():
            tail.close()

    def _read(self, folder: Path) -> int:
        producer, intake, room = folder.name, self._committer.intake, self._committer.room
        if room == 0:
            return 0
        tail = self._tails.get(producer)
        if tail is None:
            tail = Tail(folder, intake.next_seq(producer), self._last_ids.get(producer))
            self._tails[producer] = tail
        try:
            entries = tail.read(READ_BYTES, room)
            for entry in entries:
                intake.take(producer, entry.seq, entry.payload)
            if not entries and tail.adopt(self._settings.spool):
                log.warning("closed the open answers of %s, whose process is gone", producer)
        except (SpoolError, OSError) as error:
            self.errors[producer] = describe(error)
            log.error("stopped reading %s: %s", producer, describe(error))
            return 0
        return len(entries)

    def _commit(self, patient: bool = True) -> None:
        for producer in self._committer.intake.batch.next_seqs:
            self._tails[producer].sync()
        self._committed |= self._committer.commit(patient).next_seqs

    def _clear_away(self) -> None:
        """Deletes the segments that only hold what the store holds."""
        paths = [
            path
            for producer, tail in self._tails.items()
            if producer in self._committed and producer not in self.errors
            for path in tail.deletable(self._committed[producer])
        ]
        if paths and self._committer.checkpoint():
            for path in paths:
                path.unlink(missing_ok=True)
                reach("after_delete")
