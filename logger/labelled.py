# SPDX-License-Identifier: Apache-2.0
"""Answers that people put a value on: the rows a loop learns from.

One row per (answer, choice): the newest feedback of the metric wins. Answers to anything but messages, that did not
complete, or whose payload was not kept, are not among them, and neither are choices that an answer does not have: the
gateway cannot know those.

Feedback and its answer come through different spools, in either order. A row's cursor is that of whichever made it
whole, the feedback's or the answer's, so that who reads on from a cursor misses none. With ``until`` it is as if
nothing after that cursor had come.

Feedback on a conversation is on the newest complete answer of it that the log had when the feedback came; where there
was none, on the first that came after. So it never moves to another answer.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from contract.records import OF_MESSAGES, Feedback, Invocation
from logger.queries import MAX_ROWS, Row, value_of
from logger.reading import Reading

BATCH_ROWS = 1000
"""Rows that `all_labelled` holds at once."""
# Whoever polls asks for what is after a recent cursor, and is answered from that end of the log: a row is after it only
# if its feedback or its answer is, and then so is whatever could take the row's place. Payload is looked at last.
_CHOSEN = """
WITH fresh AS (
    SELECT id, conversation FROM invocations WHERE cursor > $after AND cursor <= $until AND status = 'complete'
),
opinions AS (
    SELECT cursor, id AS feedback_id, project, value, coalesce(choice, 0) AS choice, invocation, conversation
    FROM feedback
    WHERE metric = $metric AND cursor <= $until AND (
        cursor > $after OR invocation IN (SELECT id FROM fresh) OR conversation IN (SELECT conversation FROM fresh))
),
answers AS (
    SELECT cursor, id, project, conversation, time FROM invocations WHERE cursor <= $until AND status = 'complete'
),
placed AS (
    SELECT o.*, a.cursor AS answer FROM opinions o JOIN answers a ON a.id = o.invocation AND a.project = o.project
    UNION ALL
    SELECT o.*, a.cursor
    FROM opinions o JOIN answers a ON a.conversation = o.conversation AND a.project = o.project
    WHERE o.invocation IS NULL
    QUALIFY row_number() OVER (
        PARTITION BY o.cursor
        ORDER BY a.cursor > o.cursor, CASE WHEN a.cursor > o.cursor THEN a.cursor ELSE -a.time END, a.cursor DESC
    ) = 1
),
newest AS (
    SELECT *, greatest(cursor, answer) AS due FROM placed
    QUALIFY row_number() OVER (PARTITION BY answer, choice ORDER BY cursor DESC) = 1
),
chosen AS (
    SELECT n.due, n.feedback_id, n.choice, n.value, n.answer
    FROM newest n JOIN invocations i ON i.cursor = n.answer
    WHERE n.due > $after AND i.alias = $alias AND list_contains($endpoints, i.endpoint) AND i.messages IS NOT NULL
        AND list_contains(json_extract_string(i.choices::JSON, '$[*].index'), n.choice::VARCHAR)
        AND (len($finish_reasons::VARCHAR[]) = 0
            OR list_contains($finish_reasons::VARCHAR[], i.finish_reasons[n.choice + 1]))
        AND list_bool_and(list_transform(
            range(1, len($keys::VARCHAR[]) + 1),
            lambda k: (i.metadata::JSON ->> ($keys::VARCHAR[])[k]) IS NOT DISTINCT FROM ($wanted::VARCHAR[])[k]
        )) IS NOT FALSE
)
"""
_ROWS = """
SELECT c.due AS cursor, c.feedback_id, i.id AS invocation, c.choice, i.project, i."user", i.conversation, i.time,
    i.alias, i.version, i.metadata::JSON::VARCHAR AS metadata, i.parameters::JSON::VARCHAR AS parameters,
    i.messages::JSON::VARCHAR AS messages, i.choices::JSON::VARCHAR AS choices, i.finish_reasons,
    c.value::JSON::VARCHAR AS reference
FROM {chosen} c JOIN invocations i ON i.cursor = c.answer ORDER BY c.due, c.choice
"""
_ALL = _CHOSEN + _ROWS.format(chosen="chosen")
_PAGE = _CHOSEN + _ROWS.format(chosen="(FROM chosen QUALIFY rank() OVER (ORDER BY due) <= $limit)")
_COUNT = _CHOSEN + "SELECT count(*) AS rows, max(due) AS cursor FROM chosen"


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
            "endpoints": list(OF_MESSAGES),
            "metric": self.metric,
            "after": self.after,
            "until": 2**62 if self.until is None else self.until,
            "keys": [pointer(key) for key in self.metadata],
            "wanted": list(self.metadata.values()),
            "finish_reasons": list(self.finish_reasons),
        }


def labelled(store: Reading, selection: Selection, limit: int) -> list[Row]:
    """The rows by cursor, with their JSON as text under metadata, parameters, messages and reference.

    Choices of one answer may share a cursor; a page is never cut between them, so it may be longer than ``limit``.
    """
    if _is_seen(store, selection):
        return []
    found = store.fetch(_PAGE, selection.parameters() | {"limit": min(limit, MAX_ROWS)})
    return [_row(row) for row in found]


def all_labelled(store: Reading, selection: Selection) -> Iterator[list[Row]]:
    """All rows in the order of `labelled`, some at a time; what comes meanwhile is not among them."""
    for batch in store.stream(_ALL, selection.parameters(), BATCH_ROWS):
        yield [_row(row) for row in batch]


def count_labelled(store: Reading, selection: Selection) -> Row:
    """``{"rows", "cursor"}``: how many, and the cursor of the last."""
    if _is_seen(store, selection):
        return {"rows": 0, "cursor": selection.after}
    row = store.fetch(_COUNT, selection.parameters())[0]
    return {"rows": row["rows"], "cursor": selection.after if row["cursor"] is None else row["cursor"]}


def with_values(rows: list[Row]) -> list[Row]:
    """The rows with their JSON as values."""
    return [
        row | {name: value_of(row[name]) for name in ("metadata", "parameters", "messages", "reference")}
        for row in rows
    ]


def _is_seen(store: Reading, selection: Selection) -> bool:
    return selection.after >= max(store.newest(Feedback), store.newest(Invocation))


def _row(found: Row) -> Row:
    choices, reasons = value_of(found.pop("choices")), found.pop("finish_reasons") or []
    place = found["choice"]
    choice = next(each for each in choices if each["index"] == place)
    message = choice.get("message") or {}
    found["output_text"] = message.get("content") or choice.get("text") or ""
    found["finish_reason"] = reasons[place] if place < len(reasons) else choice.get("finish_reason")
    return found


def pointer(key: str) -> str:
    """A key as a JSON pointer (RFC 6901): the one form that takes any key for what it is."""
    return "/" + key.replace("~", "~0").replace("/", "~1")
