# SPDX-License-Identifier: Apache-2.0
"""Answers that people put a value on: the rows a loop learns from.

One row per (answer, choice): the newest feedback of the metric wins. Feedback on a conversation is on the newest
complete answer of that conversation. Answers that did not complete, or whose payload was not kept, are not among them.

Feedback and its answer come through different spools, in either order. A row's cursor is that of whichever made it
whole, so that who reads on from a cursor misses none: the feedback's, or that of the answer (of a conversation: of its
first) where that came later. With ``until`` it is as if nothing after that cursor had come.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from contract.records import Feedback, Invocation
from logger.queries import MAX_ROWS, Row, value_of
from logger.store import Store

_JOINED = """
WITH known AS (SELECT * FROM invocations WHERE cursor <= $until),
conversations AS (
    SELECT project, conversation, arg_max(id, time) AS invocation, min(cursor) AS cursor
    FROM known WHERE conversation IS NOT NULL AND status = 'complete' GROUP BY project, conversation
),
opinions AS (
    SELECT f.cursor, f.id AS feedback_id, f.project, f.value, coalesce(f.choice, 0) AS choice,
        coalesce(f.invocation, c.invocation) AS invocation, c.cursor AS conversation_cursor
    FROM feedback f LEFT JOIN conversations c
        ON f.invocation IS NULL AND c.conversation = f.conversation AND c.project = f.project
    WHERE f.metric = $metric AND f.cursor <= $until
),
newest AS (
    SELECT * FROM opinions
    QUALIFY row_number() OVER (PARTITION BY invocation, choice ORDER BY cursor DESC) = 1
),
labelled AS (
    SELECT greatest(n.cursor, coalesce(n.conversation_cursor, i.cursor)) AS due, n.feedback_id, n.choice, n.value, i.*
    EXCLUDE (cursor) RENAME (id AS invocation)
    FROM newest n JOIN known i ON i.id = n.invocation AND i.project = n.project
    WHERE due > $after AND i.alias = $alias AND i.status = 'complete'
        AND i.messages IS NOT NULL AND i.choices IS NOT NULL
        AND (len($finish_reasons::VARCHAR[]) = 0
            OR list_contains($finish_reasons::VARCHAR[], i.finish_reasons[n.choice + 1]))
        AND list_bool_and(list_transform(
            range(1, len($keys::VARCHAR[]) + 1),
            lambda k: (i.metadata::JSON ->> ($keys::VARCHAR[])[k]) IS NOT DISTINCT FROM ($wanted::VARCHAR[])[k]
        )) IS NOT FALSE
)
"""
_ROWS = (
    _JOINED
    + """
SELECT due AS cursor, feedback_id, invocation, choice, project, "user", conversation, time, alias, version,
    metadata::JSON::VARCHAR AS metadata, messages::JSON::VARCHAR AS messages, choices::JSON::VARCHAR AS choices,
    finish_reasons, value::JSON::VARCHAR AS reference
FROM labelled QUALIFY rank() OVER (ORDER BY due) <= $limit ORDER BY due, choice
"""
)
_COUNT = _JOINED + "SELECT count(*) AS rows, max(due) AS cursor FROM labelled"


@dataclass(frozen=True)
class Selection:
    """Which labelled answers are meant."""

    alias: str
    metric: str
    after: int = 0
    until: int | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    finish_reasons: Sequence[str] = ()

    def parameters(self) -> dict[str, Any]:
        """The values that the statements bind."""
        return {
            "alias": self.alias,
            "metric": self.metric,
            "after": self.after,
            "until": 2**62 if self.until is None else self.until,
            "keys": [_pointer(key) for key in self.metadata],
            "wanted": list(self.metadata.values()),
            "finish_reasons": list(self.finish_reasons),
        }


def labelled(store: Store, selection: Selection, limit: int) -> list[Row]:
    """The rows by cursor, with their JSON as text under metadata, messages and reference.

    Choices of one answer may share a cursor; a page is never cut between them, so it may be longer than ``limit``.
    """
    if _is_seen(store, selection):
        return []
    found = store.fetch(_ROWS, selection.parameters() | {"limit": min(limit, MAX_ROWS)})
    return [_row(row) for row in found]


def count_labelled(store: Store, selection: Selection) -> Row:
    """``{"rows", "cursor"}``: how many, and the cursor of the last."""
    if _is_seen(store, selection):
        return {"rows": 0, "cursor": selection.after}
    row = store.fetch(_COUNT, selection.parameters())[0]
    return {"rows": row["rows"], "cursor": selection.after if row["cursor"] is None else row["cursor"]}


def with_values(rows: list[Row]) -> list[Row]:
    """The rows with their JSON as values."""
    return [row | {name: value_of(row[name]) for name in ("metadata", "messages", "reference")} for row in rows]


def _is_seen(store: Store, selection: Selection) -> bool:
    return selection.after >= max(store.newest(Feedback), store.newest(Invocation))


def _row(found: Row) -> Row:
    choices, reasons = value_of(found.pop("choices")) or [], found.pop("finish_reasons") or []
    place = found["choice"]
    choice = next((each for each in choices if each.get("index", 0) == place), None)
    message = (choice or {}).get("message") or {}
    found["output_text"] = message.get("content") or (choice or {}).get("text") or ""
    found["finish_reason"] = reasons[place] if place < len(reasons) else (choice or {}).get("finish_reason")
    return found


def _pointer(key: str) -> str:
    """A key as a JSON pointer (RFC 6901): the one form that takes any key for what it is."""
    return "/" + key.replace("~", "~0").replace("/", "~1")
