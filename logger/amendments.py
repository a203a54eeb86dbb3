# SPDX-License-Identifier: Apache-2.0
"""What an `Amendment` changes in the store: the metadata of one invocation; the newest by its time holds.

As with erasures, the two may come in either order: a new amendment is applied to every row, and every amendment to new
rows. What was erased is not filled again.
"""

from collections.abc import Collection

import duckdb

from contract.records import Amendment, Invocation, Record

_AMEND = """
UPDATE invocations AS i SET metadata = a.metadata FROM (
    SELECT project, invocation, metadata FROM amendments
    WHERE invocation IN (SELECT invocation FROM amendments WHERE cursor > $orders)
    QUALIFY row_number() OVER (PARTITION BY project, invocation ORDER BY time DESC, cursor DESC) = 1
) a
WHERE a.project = i.project AND a.invocation = i.id AND i.cursor > $rows AND i.messages IS NOT NULL
"""
_FORGET = """
UPDATE amendments AS a SET metadata = NULL FROM invocations i
WHERE a.cursor > $before AND a.project = i.project AND a.invocation = i.id AND i.messages IS NULL
"""


def apply_amendments(
    connection: duckdb.DuckDBPyConnection, before: int, new: Collection[type[Record]], *, amended_before: bool
) -> None:
    """Replaces metadata, within the caller's transaction and after its erasures; arguments as `apply_erasures` has."""
    if Amendment in new:
        connection.execute(_FORGET, {"before": before}).fetchall()
        connection.execute(_AMEND, {"rows": -1, "orders": before}).fetchall()
    if amended_before and Invocation in new:
        connection.execute(_AMEND, {"rows": before, "orders": -1}).fetchall()
