# SPDX-License-Identifier: Apache-2.0
"""What an `Erasure` takes out of the store: payload, metadata and user ids. The meter part of each row stays.

An erasure and what it is about come through different spools, in either order. So a new erasure is applied to every
row, and every erasure to new rows, in the transaction that brings them. ``conversation`` stays: feedback on a
conversation is bound to an answer by it, and would move to another one.
"""

from collections.abc import Collection

import duckdb

from contract.records import Erasure, Invocation, Record, Score

_EMPTIED = (
    "messages", "choices", "prompt_token_ids", "completion_token_ids", "logprobs", "metadata", '"user"',
)  # fmt: skip
_FOUND = """
SELECT i.id, i.producer, i.seq FROM invocations i JOIN erasures e ON e.project = i.project AND e.invocation = i.id
WHERE i.cursor > $rows AND e.cursor > $orders
UNION
SELECT i.id, i.producer, i.seq FROM invocations i JOIN erasures e ON e.project = i.project AND e."user" = i."user"
WHERE i.time <= e.time AND e.invocation IS NULL AND i.cursor > $rows AND e.cursor > $orders
"""
# A grader's words may quote the answer; a dead letter is a record as it came.
_OUT = (
    f"UPDATE invocations SET {' = NULL, '.join(_EMPTIED)} = NULL WHERE id IN (SELECT unnest($ids))",
    "UPDATE scores SET reason = NULL WHERE invocation IN (SELECT unnest($ids))",
    "UPDATE amendments SET metadata = NULL WHERE invocation IN (SELECT unnest($ids))",
    "DELETE FROM dead_letters WHERE (producer, seq) IN (SELECT unnest($producers), unnest($seqs))",
)
_SILENCE_NEW = """
UPDATE scores SET reason = NULL
WHERE cursor > ? AND reason IS NOT NULL AND invocation IN (SELECT invocation FROM erasures)
"""


def apply_erasures(
    connection: duckdb.DuckDBPyConnection, before: int, new: Collection[type[Record]], *, erased_before: bool
) -> None:
    """Takes out what erasures ask for, within the caller's transaction.

    Args:
        connection: of the store, in a transaction that has inserted its rows.
        before: the cursor before those rows.
        new: the kinds among them.
        erased_before: whether the store held an erasure before.
    """
    if Erasure in new:
        _erase(connection, rows=-1, orders=before)
    if erased_before and Invocation in new:
        _erase(connection, rows=before, orders=-1)
    if (erased_before or Erasure in new) and Score in new:
        connection.execute(_SILENCE_NEW, [before]).fetchall()


def _erase(connection: duckdb.DuckDBPyConnection, rows: int, orders: int) -> None:
    found = connection.execute(_FOUND, {"rows": rows, "orders": orders}).fetchall()
    if not found:
        return
    ids, producers, seqs = (list(column) for column in zip(*found, strict=True))
    given = {"ids": ids, "producers": producers, "seqs": seqs}
    for statement in _OUT:
        connection.execute(
            statement, {name: each for name, each in given.items() if f"${name}" in statement}
        ).fetchall()
