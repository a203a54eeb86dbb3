# SPDX-License-Identifier: Apache-2.0
"""One declaration: codec, DDL and Arrow schema must say the same, and what was released must stay readable."""

import json
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.columns import CURSOR, Kind, arrow_schema, columns, ddl, reference, table_name
from contract.records import KINDS, SCHEMA, NewerRecord, Record, Status, decode, encode

RELEASED = Path(__file__).with_name(f"columns.{SCHEMA}.json")
TEXT = st.text(max_size=20)
INTEGERS = st.integers(-(2**63), 2**63 - 1)
REALS = st.floats(allow_nan=False)
VALUES: dict[Kind, st.SearchStrategy[Any]] = {
    Kind.TEXT: TEXT,
    Kind.INTEGER: INTEGERS,
    Kind.REAL: REALS,
    Kind.FLAG: st.booleans(),
    Kind.JSON: TEXT.map(json.dumps),
    Kind.TEXTS: st.lists(TEXT, max_size=3),
    Kind.INTEGERS: st.lists(INTEGERS, max_size=3),
    Kind.INTEGER_LISTS: st.lists(st.lists(INTEGERS, max_size=3), max_size=2),
    Kind.REALS: st.lists(REALS, max_size=3),
    Kind.REAL_LISTS: st.lists(st.lists(REALS, max_size=3), max_size=2),
}
CHOICES = {
    "status": [status.value for status in Status],
    "usage_source": ["reported", "counted", "estimated"],
    "category": ["training", "credit", "correction"],
}


@st.composite
def records(draw: st.DrawFn) -> Record:
    kind = draw(st.sampled_from(list(KINDS.values())))
    fields: dict[str, Any] = {"kind": kind.__struct_config__.tag}
    for column in columns(kind):
        values = st.sampled_from(CHOICES[column.name]) if column.name in CHOICES else VALUES[column.kind]
        fields[column.name] = draw(values | st.none() if column.nullable else values)
    fields["schema"] = draw(st.integers(1, SCHEMA))
    return msgspec.convert(fields, kind)


@given(records())
def test_every_record_comes_back_from_its_bytes_as_it_was(record: Record) -> None:
    again = decode(encode(record))
    assert type(again) is type(record) and again == record
    assert decode(memoryview(encode(record))) == record


@given(records(), st.integers(SCHEMA + 1, 2**31))
def test_a_record_of_a_newer_schema_is_refused_by_name(record: Record, schema: int) -> None:
    record.schema = schema
    with pytest.raises(NewerRecord, match=f"of schema {schema}; this release reads schema {SCHEMA}"):
        decode(encode(record))


def test_a_kind_that_is_not_known_is_newer() -> None:
    with pytest.raises(NewerRecord, match="a 'prophecy' of schema"):
        decode(msgspec.msgpack.encode({"kind": "prophecy", "schema": 1, "id": "x"}))


@given(st.binary(max_size=60))
def test_bytes_that_are_no_record_are_an_error_of_decoding(payload: bytes) -> None:
    with pytest.raises((msgspec.DecodeError, NewerRecord)):
        decode(payload)


def test_an_older_record_is_met_with_defaults() -> None:
    old = {
        "kind": "decision",
        "id": "d",
        "time": 1,
        "action": "promote",
        "subject": "v",
        "reason": "r",
        "figures": "{}",
    }
    record = decode(msgspec.msgpack.encode(old))
    assert (record.schema, record.producer, record.seq) == (SCHEMA, "", -1)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_struct_ddl_and_arrow_schema_have_the_same_columns(kind: type[Record]) -> None:
    names = list(kind.__struct_fields__)
    assert [column.name for column in columns(kind)] == names
    schema = arrow_schema(kind)
    assert schema.names == names
    with duckdb.connect() as connection:
        connection.execute(ddl(kind))
        there = connection.execute(f"DESCRIBE {table_name(kind)}").fetchall()
    assert [row[0] for row in there] == [CURSOR, *names]
    for column, (_, type_name, null, *_) in zip(columns(kind), there[1:], strict=True):
        assert (type_name, null == "YES") == (column.kind.value, column.nullable)
        assert schema.field(column.name).nullable == column.nullable


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_column_is_described(kind: type[Record]) -> None:
    assert [column.name for column in columns(kind) if not column.description] == []
    page = "\n".join(reference())
    assert all(f"| `{column.name}` |" in page for column in columns(kind))


def test_a_changed_record_raises_the_schema_version() -> None:
    """Red after a change of a record? Raise `SCHEMA`, and write the new columns beside the old ones with
    ``python -m tests.contract.test_records``. A release's file is never edited."""
    assert RELEASED.exists(), f"no {RELEASED.name} for SCHEMA = {SCHEMA}"
    assert declared() == json.loads(RELEASED.read_text())


def test_a_newer_schema_keeps_every_older_column_as_it_was_and_where_it_was() -> None:
    for schema in range(1, SCHEMA):
        older = json.loads(RELEASED.with_name(f"columns.{schema}.json").read_text())
        for kind, before in older.items():
            assert declared()[kind][: len(before)] == before, f"{kind} of schema {schema}"


def declared() -> dict[str, list[list[Any]]]:
    """Kind -> [name, type, nullable] of each column, in order."""
    return {name: [[c.name, c.kind.value, c.nullable] for c in columns(kind)] for name, kind in KINDS.items()}


if __name__ == "__main__":
    assert not RELEASED.exists(), f"{RELEASED} is released"
    RELEASED.write_text(json.dumps(declared(), indent=1) + "\n")
