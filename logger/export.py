# SPDX-License-Identifier: Apache-2.0
"""The log leaving its file: an Arrow stream for a trainer, Parquet and JSONL for anyone, a snapshot as a DuckDB file.

What is written appears under its name whole or not at all.
"""

import io
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow

from contract.columns import CURSOR, Kind, columns, table_name
from contract.errors import InvalidRequest
from contract.records import KINDS, Erasure, Record
from logger.labelled import Selection, all_labelled
from logger.queries import Row
from logger.snapshots import remember_snapshot
from logger.store import Store

ARROW = "application/vnd.apache.arrow.stream"
"""Media type of an Arrow IPC stream."""
LABELLED_SCHEMA = pyarrow.schema(
    [
        pyarrow.field("cursor", pyarrow.int64(), nullable=False),
        pyarrow.field("feedback_id", pyarrow.string(), nullable=False),
        pyarrow.field("invocation", pyarrow.string(), nullable=False),
        pyarrow.field("choice", pyarrow.int64(), nullable=False),
        pyarrow.field("project", pyarrow.string(), nullable=False),
        pyarrow.field("user", pyarrow.string()),
        pyarrow.field("conversation", pyarrow.string()),
        pyarrow.field("time", pyarrow.int64(), nullable=False),
        pyarrow.field("alias", pyarrow.string(), nullable=False),
        pyarrow.field("version", pyarrow.string(), nullable=False),
        pyarrow.field("metadata", pyarrow.string()),
        pyarrow.field("parameters", pyarrow.string()),
        pyarrow.field("messages", pyarrow.string(), nullable=False),
        pyarrow.field("reference", pyarrow.string()),
        pyarrow.field("output_text", pyarrow.string(), nullable=False),
        pyarrow.field("finish_reason", pyarrow.string()),
    ]
)


def labelled_stream(store: Store, selection: Selection) -> Iterator[bytes]:
    """All labelled rows of a selection as an Arrow IPC stream."""
    return arrow_stream(LABELLED_SCHEMA, all_labelled(store, selection))


def arrow_stream(schema: pyarrow.Schema, batches: Iterable[list[Row]]) -> Iterator[bytes]:
    """Rows as an Arrow IPC stream, in pieces; the first is there before any row."""
    sink = io.BytesIO()
    with pyarrow.ipc.new_stream(sink, schema) as writer:
        yield _taken(sink)
        for rows in batches:
            writer.write_table(pyarrow.Table.from_pylist(rows, schema))
            yield _taken(sink)
    yield _taken(sink)


def snapshot(store: Store, path: Path) -> Row:
    """Copies the store to a new DuckDB file while it goes on: ``{"path", "bytes"}``.

    Raises:
        InvalidRequest: there is something at ``path`` already, or its folder is missing.
    """
    part, alias = _part(path), f"snapshot_{secrets.token_hex(6)}"
    erased_to = store.newest(Erasure)  # before the copy: it may have more, and never less
    try:
        store.run(f"ATTACH {_text(part)} AS {alias}")
        try:
            store.run(f"COPY FROM DATABASE {_name(store.name)} TO {alias}")
        finally:
            store.run(f"DETACH {alias}")
        with store.writing() as connection:
            remember_snapshot(connection, path, erased_to)
            part.rename(path)
    finally:
        for left in (part, part.with_name(f"{part.name}.wal")):
            left.unlink(missing_ok=True)
    return {"path": str(path), "bytes": path.stat().st_size}


def export(store: Store, kind: str, format: str, path: Path) -> Row:
    """Writes one table: ``parquet`` as a folder partitioned by day, ``jsonl`` as a file: ``{"path", "rows"}``.

    Raises:
        InvalidRequest: no such kind or format, or there is something at ``path`` already.
    """
    if kind not in KINDS:
        raise InvalidRequest(f"kind: {kind!r}: is none of {', '.join(KINDS)}", param="kind")
    if format not in _OPTIONS:
        raise InvalidRequest(f"format: {format!r}: is none of {', '.join(_OPTIONS)}", param="format")
    table, part, until = table_name(KINDS[kind]), _part(path), store.cursor
    days = "" if format == "jsonl" else ", strftime(make_timestamp_ns(time), '%Y-%m-%d') AS day"
    rows = f"SELECT {_exported(KINDS[kind])}{days} FROM {table} WHERE {CURSOR} <= {until} ORDER BY {CURSOR}"
    try:
        store.run(f"COPY ({rows}) TO {_text(part)} ({_OPTIONS[format]})")
        count = store.fetch(f"SELECT count(*) AS rows FROM {table} WHERE {CURSOR} <= ?", [until])[0]["rows"]
        part.rename(path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        part.unlink(missing_ok=True)
        raise
    return {"path": str(path), "rows": count}


_OPTIONS = {"parquet": "FORMAT parquet, COMPRESSION zstd, PARTITION_BY (day)", "jsonl": "FORMAT json"}


def _exported(kind: type[Record]) -> str:
    """Every column; JSON as JSON, which other engines read as text."""
    names = [f'"{c.name}"::JSON AS "{c.name}"' if c.kind is Kind.JSON else f'"{c.name}"' for c in columns(kind)]
    return ", ".join([CURSOR, *names])


def _taken(sink: io.BytesIO) -> bytes:
    piece = sink.getvalue()
    sink.seek(0)
    sink.truncate()
    return piece


def _part(path: Path) -> Path:
    """A name beside ``path`` to write under until it is whole."""
    if not path.is_absolute() or not path.parent.is_dir() or path.exists():
        raise InvalidRequest(
            f"path: {str(path)!r}: must be the absolute path of something new in a folder that exists", param="path"
        )
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")


def _text(path: Path) -> str:
    """A path as an SQL literal; ATTACH and COPY bind no parameters."""
    return "'" + str(path).replace("'", "''") + "'"


def _name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
