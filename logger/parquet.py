# SPDX-License-Identifier: Apache-2.0
"""The log as Parquet that any engine reads: ``kind=invocation/day=2026-11-23/part-0.parquet``, one file for each day.

An export brings a place up to the log: a day is written again only if a row of it has come or changed (an erasure, an
amendment), and then as a whole in the place of the old one. A day that the log no longer holds stays. JSON columns are
JSON text, lists are lists; partitions are by the UTC day of ``time``.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import duckdb
import msgspec
import pyarrow
import pyarrow.parquet

from contract.columns import CURSOR, Kind, arrow_schema, columns, table_name
from contract.errors import InvalidRequest, Overloaded
from contract.records import KINDS, SCHEMA, Record
from logger.parquet_index import Day, Index, Table, file_of, read_index, write_index
from logger.places import Place
from logger.queries import Row, select
from logger.reading import DAY_NS, day_of, day_start
from logger.store import Store

INDEX_SECONDS = 5.0
"""How much work an export that is killed may have to do again."""
# Row groups that one thread holds in memory, however long the payloads are.
_OPTIONS = "FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 122880, ROW_GROUP_SIZE_BYTES '32MB'"
REPLACED = ("metadata", "value")
"""Columns that may get another value: metadata by an amendment, feedback in words when it is erased."""
PIECE = 16
"""Rows of one piece, where they are too long for more."""
_one_at_a_time = threading.Lock()
_Write = Callable[[duckdb.DuckDBPyConnection, str, str, Path], None]


def export_parquet(
    store: Store, kinds: Sequence[str], place: Place, clock: Callable[[], float] = time.monotonic
) -> list[Row]:
    """Brings ``place`` up to the log, and tells what was done: a row for each kind.

    Each row: kind, rows and days (there now), written_days, written_bytes.

    Raises:
        InvalidRequest: the place cannot be used, or holds the export of another log.
        Overloaded: another export is under way.
    """
    if not _one_at_a_time.acquire(blocking=False):
        raise Overloaded("another export is under way; try again when it has ended", retry_after=10.0)
    try:
        return _Export(store, place, clock).bring(kinds)
    finally:
        _one_at_a_time.release()


class _Export:
    def __init__(self, store: Store, place: Place, clock: Callable[[], float]) -> None:
        self._store = store
        self._place = place
        self._clock = clock
        self._until = store.cursor
        self._saved = clock()
        self._index = read_index(place, "to") or Index(store.identity)
        if self._index.log != store.identity:
            raise InvalidRequest(
                f"to: {place.url!r}: holds the export of another log ({self._index.log}; this one is "
                f"{store.identity}); give an empty place",
                param="to",
            )
        there = max((table.cursor for table in self._index.kinds.values()), default=0)
        if there > self._until:
            raise InvalidRequest(
                f"to: {place.url!r}: holds rows up to {there}, and this log ends at {self._until}: it was put back "
                "to an older state; give another place, so that this one keeps what it has",
                param="to",
            )

    def bring(self, kinds: Sequence[str]) -> list[Row]:
        told = [self._bring(kind) for kind in kinds]
        for kind in kinds:
            self._index.kinds[kind].cursor = self._until
        write_index(self._place, self._index)
        return told

    def _bring(self, kind: str) -> Row:
        table = self._index.kinds.setdefault(kind, Table())
        written = []
        for day, figures in self._figures(kind):
            there = table.days.get(day)
            if there is None or there.figures != figures:
                fresh = self._write(kind, day)
                if fresh is None:
                    continue
                table.days[day] = fresh
                written.append(fresh.bytes)
                self._save_sometimes()
        rows = sum(day.rows for day in table.days.values())
        return {
            "kind": kind, "rows": rows, "days": len(table.days), "written_days": len(written),
            "written_bytes": sum(written),
        }  # fmt: skip

    def _figures(self, kind: str) -> list[tuple[str, str]]:
        statement = _figures(KINDS[kind], f"{CURSOR} <= {self._until}")
        with self._store.connection() as connection:
            found = connection.execute(statement).fetchall()
            names = [column[0] for column in connection.description or ()]
        return [(day_of(row[0] * DAY_NS), _digest(names, row)) for row in found]

    def _write(self, kind: str, day: str) -> Day | None:
        """The day anew; None where its last rows went by age just now."""
        start = day_start(day)
        condition = f"{CURSOR} <= {self._until} AND time >= {start} AND time < {start + DAY_NS}"
        with self._store.connection() as connection:
            if not connection.execute(_figures(KINDS[kind], condition)).fetchall():
                return None
        with self._place.writing(file_of(kind, day)) as part, self._store.connection() as connection:
            connection.execute("SET SESSION preserve_insertion_order = false")  # or a group's bytes have no bound
            try:
                names, row = _written(connection, kind, condition, part, _at_once)
            except duckdb.OutOfMemoryException:  # DuckDB takes 2048 rows at a time, and these are very long ones
                names, row = _written(connection, kind, condition, part, _in_pieces)
            size = part.stat().st_size
        return Day(row[1], size, row[2], SCHEMA, _digest(names, row))

    def _save_sometimes(self) -> None:
        if self._clock() - self._saved >= INDEX_SECONDS:
            write_index(self._place, self._index)
            self._saved = self._clock()


def _written(
    connection: duckdb.DuckDBPyConnection, kind: str, condition: str, part: Path, write: _Write
) -> tuple[list[str], Sequence[int]]:
    """Writes a day's rows, and gives the names and values of the figures of those very rows."""
    connection.execute("BEGIN")
    try:
        (row,) = connection.execute(_figures(KINDS[kind], condition)).fetchall()
        names = [column[0] for column in connection.description or ()]
        write(connection, kind, condition, part)
    finally:
        connection.execute("ROLLBACK")  # nothing was changed
    return names, row


def _at_once(connection: duckdb.DuckDBPyConnection, kind: str, condition: str, part: Path) -> None:
    connection.execute(
        f"COPY ({select(KINDS[kind])} WHERE {condition}) TO {_text(part)} "
        f"({_OPTIONS}, KV_METADATA {{kind: '{kind}', schema: '{SCHEMA}'}})"
    ).fetchall()


def _in_pieces(connection: duckdb.DuckDBPyConnection, kind: str, condition: str, part: Path) -> None:
    """A few rows at a time, each piece a row group: slower by far, for rows so long that this is still little."""
    found = connection.execute(f"SELECT rowid FROM {table_name(KINDS[kind])} WHERE {condition}").fetchall()
    known = arrow_schema(KINDS[kind])
    schema = pyarrow.schema(
        [pyarrow.field(CURSOR, pyarrow.int64(), nullable=False), *known], {"kind": kind, "schema": str(SCHEMA)}
    )
    with pyarrow.parquet.ParquetWriter(part, schema, compression="zstd") as writer:
        for start in range(0, len(found), PIECE):
            # By rowid alone DuckDB takes the wanted rows out before it unpacks their columns.
            wanted = ", ".join(str(each[0]) for each in found[start : start + PIECE])
            rows = connection.execute(f"{select(KINDS[kind])} WHERE rowid IN ({wanted})").fetchall()
            columns_of_it = list(zip(*rows, strict=True))
            arrays = [pyarrow.array(values, field.type) for values, field in zip(columns_of_it, schema, strict=True)]
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))


def _figures(kind: type[Record], condition: str) -> str:
    """What tells a day from the same day before a change: rows come, columns are emptied, values are replaced."""
    known = columns(kind)
    counts = [f'count("{column.name}") AS "{column.name}"' for column in known if column.nullable]
    counts += [
        f'bit_xor(hash({CURSOR}, "{column.name}"::JSON::VARCHAR)) AS "of {column.name}"'
        for column in known
        if column.name in REPLACED and column.kind is Kind.JSON
    ]
    return (
        f"SELECT time // {DAY_NS} - (time % {DAY_NS} < 0)::BIGINT AS day, "  # // rounds towards zero
        f"count(*) AS rows, max({CURSOR}) AS cursor, {', '.join(counts)} "
        f"FROM {table_name(kind)} WHERE {condition} GROUP BY 1 ORDER BY 1"
    )


def _digest(names: Sequence[str], row: Sequence[int]) -> str:
    # A column that is empty is as one that is not there: a new release's columns change no day.
    told = {name: value for name, value in zip(names, row, strict=True) if value}
    return hashlib.blake2b(msgspec.json.encode(told, order="sorted"), digest_size=8).hexdigest()


def _text(path: Path) -> str:
    """A path as an SQL literal; COPY binds no parameters."""
    return "'" + str(path).replace("'", "''") + "'"
