# SPDX-License-Identifier: Apache-2.0
"""Answers that people put a value on: the rows a loop learns from.

One row per (answer, choice): the newest feedback of the metric up to ``until`` wins. Feedback on a conversation is on
the newest complete answer of that conversation, as of the query. Answers that did not complete, or whose payload was
not kept, are not among them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from contract.records import Feedback
from logger.queries import MAX_ROWS, Row, value_of
from logger.store import Store

_JOINED = """
WITH opinions AS (
    SELECT f.cursor, f.id AS feedback_id, f.project, f.value, coalesce(f.choice, 0) AS choice,
        coalesce(f.invocation, (
            SELECT arg_max(i.id, i.time) FROM invocations i
            WHERE i.conversation = f.conversation AND i.project = f.project AND i.status = 'complete'
        )) AS invocation
    FROM feedback f WHERE f.metric = $metric AND f.cursor <= $until
),
newest AS (
    SELECT * FROM opinions
    QUALIFY row_number() OVER (PARTITION BY invocation, choice ORDER BY cursor DESC) = 1
),
labelled AS (
    SELECT n.cursor, n.feedback_id, n.choice, n.value, i.*
    EXCLUDE (cursor) RENAME (id AS invocation)
    FROM newest n JOIN invocations i ON i.id = n.invocation AND i.project = n.project
    WHERE n.cursor > $after AND i.alias = $alias AND i.status = 'complete'
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
SELECT cursor, feedback_id, invocation, choice, project, "user", conversation, time, alias, version,
    metadata::JSON::VARCHAR AS metadata, messages::JSON::VARCHAR AS messages, choices::JSON::VARCHAR AS choices,
    finish_reasons, value::JSON::VARCHAR AS reference
FROM labelled ORDER BY cursor LIMIT $limit
"""
)
_COUNT = _JOINED + "SELECT count(*) AS rows, max(cursor) AS cursor FROM labelled"


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
    """The rows by cursor, with their JSON as text under metadata, messages and reference."""
    if selection.after >= store.newest(Feedback):
        return []
    found = store.fetch(_ROWS, selection.parameters() | {"limit": min(limit, MAX_ROWS)})
    return [_row(row) for row in found]


def count_labelled(store: Store, selection: Selection) -> Row:
    """``{"rows", "cursor"}``: how many, and the cursor of the last."""
    if selection.after >= store.newest(Feedback):
        return {"rows": 0, "cursor": selection.after}
    row = store.fetch(_COUNT, selection.parameters())[0]
    return {"rows": row["rows"], "cursor": selection.after if row["cursor"] is None else row["cursor"]}


def with_values(rows: list[Row]) -> list[Row]:
    """The rows with their JSON as values."""
    return [row | {name: value_of(row[name]) for name in ("metadata", "messages", "reference")} for row in rows]


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
