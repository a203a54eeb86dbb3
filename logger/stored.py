# SPDX-License-Identifier: Apache-2.0
"""Stored completions: complete answers to chat requests whose client asked to find them again under their id.

One whose payload was cut on its way, or was erased, is not among them.
"""

from collections.abc import Mapping

from contract.records import Invocation
from logger.conditions import pointer
from logger.queries import Row, decoded, select
from logger.reading import Reading

MAX_PAGE = 100
_KEPT = "stored IS NOT NULL AND messages IS NOT NULL AND choices IS NOT NULL AND status = 'complete'"


def stored(
    store: Reading,
    project: str,
    limit: int,
    *,
    after: str | None = None,
    descending: bool = False,
    model: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Row:
    """A page of a project's stored completions by time: ``{"rows", "more"}``; ``more``: others follow.

    Args:
        store: the log.
        project: whose they are.
        limit: most rows.
        after: id of the invocation to start behind; one that the project does not have gives an empty page.
        descending: newest first.
        model: the name that the client got.
        metadata: pairs that each must have.
    """
    conditions, values = ["project = ?", _KEPT], [project]
    way, order = ("<", "DESC") if descending else (">", "ASC")
    if after is not None:
        conditions.append(f"(time, id) {way} (SELECT (time, id) FROM invocations WHERE id = ? AND project = ?)")
        values += [after, project]
    if model is not None:
        conditions.append("(stored::JSON ->> '/model') = ?")
        values.append(model)
    for key, value in (metadata or {}).items():
        conditions.append("(metadata::JSON ->> ?) = ?")
        values += [pointer(key), value]
    statement = f"{select(Invocation)} WHERE {' AND '.join(conditions)} ORDER BY time {order}, id {order} LIMIT ?"
    rows = decoded(Invocation, store.fetch(statement, [*values, limit + 1]))
    return {"rows": rows[:limit], "more": len(rows) > limit}


def stored_one(store: Reading, project: str, identifier: str) -> Row:
    """``{"row", "erased"}``: the stored completion, null where there is none; and whether it was erased."""
    statement = f"{select(Invocation)} WHERE id = ? AND project = ? AND {_KEPT}"
    rows = decoded(Invocation, store.fetch(statement, [identifier, project]))
    if rows:
        return {"row": rows[0], "erased": False}
    erasures = store.fetch("SELECT 1 FROM erasures WHERE invocation = ? AND project = ? LIMIT 1", [identifier, project])
    return {"row": None, "erased": bool(erasures)}
