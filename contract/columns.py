# SPDX-License-Identifier: Apache-2.0
"""The columns of a record kind, and what derives from them: DDL, Arrow schema, documentation.

`contract.records` is the only declaration; nothing here names a field.
"""

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from msgspec import inspect

from contract.records import KINDS, Record

if TYPE_CHECKING:
    import pyarrow

CURSOR = "cursor"
"""Added by the store to every table: the order in which rows became visible, dense enough to page by."""


class Kind(enum.Enum):
    """The column types that records use, as DuckDB names them."""

    TEXT = "VARCHAR"
    INTEGER = "BIGINT"
    REAL = "DOUBLE"
    FLAG = "BOOLEAN"
    JSON = "VARIANT"
    TEXTS = "VARCHAR[]"
    INTEGERS = "INTEGER[]"
    INTEGER_LISTS = "INTEGER[][]"
    REALS = "FLOAT[]"
    REAL_LISTS = "FLOAT[][]"


@dataclass(frozen=True)
class Column:
    """One field of a record as a column."""

    name: str
    kind: Kind
    nullable: bool
    description: str


@cache
def columns(record: type[Record]) -> tuple[Column, ...]:
    """The columns of a record kind, common ones first, in declaration order."""
    info = inspect.type_info(record)
    assert isinstance(info, inspect.StructType)
    return tuple(_column(field) for field in info.fields)


def table_name(record: type[Record]) -> str:
    """The store's table of a record kind: ``invocations``, ``training_steps``, …; ``feedback`` has no plural."""
    kind = cast(str, record.__struct_config__.tag)
    return kind if kind == "feedback" else f"{kind}s"


def ddl(record: type[Record]) -> str:
    """``CREATE TABLE IF NOT EXISTS`` for DuckDB, with the store's cursor in front."""
    lines = [f"{CURSOR} BIGINT NOT NULL"]
    lines += [f'"{c.name}" {c.kind.value}{"" if c.nullable else " NOT NULL"}' for c in columns(record)]
    body = ",\n    ".join(lines)
    return f"CREATE TABLE IF NOT EXISTS {table_name(record)} (\n    {body}\n)"


@cache
def arrow_schema(record: type[Record]) -> "pyarrow.Schema":
    """The Arrow schema of a batch of records; JSON travels as text."""
    import pyarrow  # here, so that the gateway's process never loads it

    types: dict[Kind, Any] = {
        Kind.TEXT: pyarrow.string(),
        Kind.INTEGER: pyarrow.int64(),
        Kind.REAL: pyarrow.float64(),
        Kind.FLAG: pyarrow.bool_(),
        Kind.JSON: pyarrow.string(),
        Kind.TEXTS: pyarrow.list_(pyarrow.string()),
        Kind.INTEGERS: pyarrow.list_(pyarrow.int32()),
        Kind.INTEGER_LISTS: pyarrow.list_(pyarrow.list_(pyarrow.int32())),
        Kind.REALS: pyarrow.list_(pyarrow.float32()),
        Kind.REAL_LISTS: pyarrow.list_(pyarrow.list_(pyarrow.float32())),
    }
    return pyarrow.schema(
        [pyarrow.field(c.name, types[c.kind], nullable=c.nullable) for c in columns(record)],
        metadata={"kind": cast(str, record.__struct_config__.tag)},
    )


def reference() -> Iterator[str]:
    """The lines of the records' reference page, in Markdown."""
    for kind, record in KINDS.items():
        yield f"## `{kind}` (table `{table_name(record)}`)\n\n{record.__doc__}\n"
        yield "| column | type | null | what |\n| --- | --- | --- | --- |"
        for column in columns(record):
            null = "yes" if column.nullable else "no"
            yield f"| `{column.name}` | {column.kind.value} | {null} | {column.description} |"
        yield ""


def _column(field: inspect.Field) -> Column:
    kind, nullable = _kind(field.type)
    return Column(field.name, kind, nullable, _description(field.type))


def _description(kind: inspect.Type) -> str:
    if isinstance(kind, inspect.Metadata):
        description = (kind.extra_json_schema or {}).get("description")
        if description:
            return str(description)
        return _description(kind.type)
    if isinstance(kind, inspect.UnionType):
        return next((text for text in map(_description, kind.types) if text), "")
    return ""


def _kind(kind: inspect.Type) -> tuple[Kind, bool]:
    if isinstance(kind, inspect.Metadata):
        if (kind.extra or {}).get("column") == "json":
            return Kind.JSON, False
        return _kind(kind.type)
    if isinstance(kind, inspect.UnionType):
        inner = [t for t in kind.types if not isinstance(t, inspect.NoneType)]
        if len(inner) != 1:
            raise TypeError(f"a column has one type, not {inner}")
        return _kind(inner[0])[0], len(inner) < len(kind.types)
    if isinstance(kind, inspect.ListType):
        return _LISTS[_kind(kind.item_type)[0]], False
    for scalar, column in _SCALARS.items():
        if isinstance(kind, scalar):
            return column, False
    raise TypeError(f"no column type for {kind}")


_SCALARS: dict[type[inspect.Type], Kind] = {
    inspect.BoolType: Kind.FLAG,
    inspect.IntType: Kind.INTEGER,
    inspect.FloatType: Kind.REAL,
    inspect.StrType: Kind.TEXT,
    inspect.EnumType: Kind.TEXT,
    inspect.LiteralType: Kind.TEXT,
}
_LISTS = {
    Kind.TEXT: Kind.TEXTS,
    Kind.INTEGER: Kind.INTEGERS,
    Kind.INTEGERS: Kind.INTEGER_LISTS,
    Kind.REAL: Kind.REALS,
    Kind.REALS: Kind.REAL_LISTS,
}
