# SPDX-License-Identifier: Apache-2.0
"""Records as Arrow tables on their way into DuckDB, and what about a record keeps it from becoming one."""

from collections.abc import Iterator, Sequence
from functools import cache

import duckdb
import msgspec
import pyarrow

from contract.columns import CURSOR, Column, Kind, arrow_schema, columns, table_name
from contract.records import Record, encode
from logger.batch import Batch, DeadLetter


def arrow_table(kind: type[Record], records: Sequence[Record], first_cursor: int) -> pyarrow.Table:
    """The records as one table with their cursors.

    Raises:
        pyarrow.ArrowInvalid, OverflowError: a number does not fit its column.
    """
    schema = arrow_schema(kind)
    values = zip(*map(msgspec.structs.astuple, records), strict=True)
    arrays = [pyarrow.array(column, field.type) for column, field in zip(values, schema, strict=True)]
    cursors = pyarrow.array(range(first_cursor, first_cursor + len(records)), pyarrow.int64())
    return pyarrow.Table.from_arrays([cursors, *arrays], [CURSOR, *schema.names])


@cache
def insert_statement(kind: type[Record], source: str) -> str:
    """Takes the rows of the registered table ``source`` into the store's table; JSON text becomes VARIANT."""
    known = columns(kind)
    names = ", ".join([CURSOR, *(f'"{column.name}"' for column in known)])
    values = ", ".join([CURSOR, *(_value(column) for column in known)])
    return f"INSERT INTO {table_name(kind)} ({names}) SELECT {values} FROM {source}"


def set_aside_misfits(batch: Batch, connection: duckdb.DuckDBPyConnection) -> None:
    """Takes out of a batch what the store refuses; slow, and only for a batch that was refused.

    A JSON column that is no JSON is emptied where it may be: the meter part stays. A record that does not fit even
    then goes whole. Either way the record as it came is kept as a dead letter with its reason.
    """
    for kind, records in batch.rows.items():
        kept = []
        for record in records:
            payload, reasons = encode(record), list(_empty_bad_json(record, connection))
            misfit = _misfit(kind, record, connection)
            if misfit is None:
                kept.append(record)
            if misfit is not None or reasons:
                reason = "; ".join([*reasons, *([misfit] if misfit else [])])
                batch.dead_letters.append(DeadLetter(record.producer, record.seq, reason, payload))
        batch.rows[kind] = kept


def _value(column: Column) -> str:
    return f'"{column.name}"::JSON::VARIANT' if column.kind is Kind.JSON else f'"{column.name}"'


def _empty_bad_json(record: Record, connection: duckdb.DuckDBPyConnection) -> Iterator[str]:
    for column in columns(type(record)):
        text = getattr(record, column.name)
        if column.kind is Kind.JSON and column.nullable and text is not None:
            try:
                connection.execute("SELECT ?::JSON::VARIANT", [text]).fetchall()
            except duckdb.Error as error:
                setattr(record, column.name, None)
                yield f"{column.name} was emptied: {_first_line(error)}"


def _misfit(kind: type[Record], record: Record, connection: duckdb.DuckDBPyConnection) -> str | None:
    try:
        connection.register("misfit", arrow_table(kind, [record], 0))
        values = ", ".join(_value(column) for column in columns(kind))
        connection.sql(f"SELECT {values} FROM misfit").fetchall()
    except (duckdb.Error, pyarrow.ArrowException, OverflowError, msgspec.MsgspecError) as error:
        return _first_line(error)
    finally:
        connection.unregister("misfit")
    return None


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
