# SPDX-License-Identifier: Apache-2.0
"""Answers that people put a value on: the rows a loop learns from.

One row per (answer, choice): the newest feedback of the metric wins. Answers to anything but messages, that did not
complete, or whose payload was not kept, are not among them, and neither are choices that an answer does not have: the
gateway cannot know those. An opinion whose words were erased, or never kept, is none.

Feedback and its answer come through different spools, in either order. A row's cursor is that of whatever made it
whole: the feedback, the answer, or a score or opinion that the filter asks for. So who reads on from a cursor misses
none. With ``until`` it is as if nothing after that cursor had come.

Which answer feedback on a conversation is on: see `logger.opinions`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from contract.records import OF_MESSAGES, Feedback, Invocation, Score
from contract.settings import Filter
from logger.conditions import conditions
from logger.opinions import ANSWERS, GIVEN, OPINION, newest
from logger.queries import MAX_ROWS, Row, value_of
from logger.reading import Reading

BATCH_ROWS = 1000
"""Rows that `all_labelled` holds at once."""
# Whoever polls asks for what is after a recent cursor, and is answered from that end of the log: a row is after it only
# if its feedback or its answer is, and then so is whatever could take the row's place. Payload is looked at last. A
# filter on scores or on other feedback can make any row new; then ``since`` is 0 and the whole log is looked at.
_CHOSEN = f"""
WITH fresh AS (
    SELECT id, conversation FROM invocations WHERE cursor > $since AND cursor <= $until AND status = 'complete'
),
opinions AS (
    SELECT {OPINION} FROM {GIVEN}
    WHERE metric = $metric AND cursor <= $until AND (
        cursor > $since OR invocation IN (SELECT id FROM fresh) OR conversation IN (SELECT conversation FROM fresh))
),
{ANSWERS}, {newest("newest", "opinions")}{{tables}},
chosen AS (
    SELECT greatest(n.due{{cursors}}) AS due, n.feedback_id, n.choice, n.value, n.answer
    FROM newest n JOIN invocations i ON i.cursor = n.answer {{joins}}
    WHERE greatest(n.due{{cursors}}) > $after AND i.alias = $alias AND list_contains($endpoints, i.endpoint)
        AND i.messages IS NOT NULL
        AND list_contains(json_extract_string(i.choices::JSON, '$[*].index'), n.choice::VARCHAR)
        AND {{fixed}} AND {{later}}
)
"""
_ROWS = """
SELECT c.due AS cursor, c.feedback_id, i.id AS invocation, c.choice, i.project, i."user", i.conversation, i.time,
    i.alias, i.version, i.metadata::JSON::VARCHAR AS metadata, i.parameters::JSON::VARCHAR AS parameters,
    i.messages::JSON::VARCHAR AS messages, i.choices::JSON::VARCHAR AS choices, i.finish_reasons,
    c.value::JSON::VARCHAR AS reference
FROM {chosen} c JOIN invocations i ON i.cursor = c.answer ORDER BY c.due, c.choice
"""
_ALL = _ROWS.format(chosen="chosen")
_PAGE = _ROWS.format(chosen="(FROM chosen QUALIFY rank() OVER (ORDER BY due) <= $limit)")
_COUNT = "SELECT count(*) AS rows, max(due) AS cursor FROM chosen"


@dataclass(frozen=True)
class Selection:
    """Which labelled answers are meant."""

    alias: str
    metric: str
    after: int = 0
    until: int | None = None
    filter: Filter = field(default_factory=Filter)

    def statement(self, end: str) -> tuple[str, dict[str, Any]]:
        """A statement on the table ``chosen``, and the values that it binds."""
        meant = conditions(self.filter)
        cursors = "".join(f", {cursor}" for cursor in meant.cursors)
        parameters = {
            "alias": self.alias,
            "endpoints": list(OF_MESSAGES),
            "metric": self.metric,
            "since": 0 if meant.cursors else self.after,
            "after": self.after,
            "until": 2**62 if self.until is None else self.until,
        }
        return _CHOSEN.format(cursors=cursors, **meant.parts()) + end, parameters | meant.parameters


def labelled(store: Reading, selection: Selection, limit: int) -> list[Row]:
    """The rows by cursor, with their JSON as text under metadata, parameters, messages and reference.

    Choices of one answer may share a cursor; a page is never cut between them, so it may be longer than ``limit``.
    """
    if _is_seen(store, selection):
        return []
    statement, parameters = selection.statement(_PAGE)
    found = store.fetch(statement, parameters | {"limit": min(limit, MAX_ROWS)})
    return [_row(row) for row in found]


def all_labelled(store: Reading, selection: Selection) -> Iterator[list[Row]]:
    """All rows in the order of `labelled`, some at a time; what comes meanwhile is not among them."""
    for batch in store.stream(*selection.statement(_ALL), BATCH_ROWS):
        yield [_row(row) for row in batch]


def count_labelled(store: Reading, selection: Selection) -> Row:
    """``{"rows", "cursor"}``: how many, and the cursor of the last."""
    if _is_seen(store, selection):
        return {"rows": 0, "cursor": selection.after}
    row = store.fetch(*selection.statement(_COUNT))[0]
    return {"rows": row["rows"], "cursor": selection.after if row["cursor"] is None else row["cursor"]}


def with_values(rows: list[Row]) -> list[Row]:
    """The rows with their JSON as values."""
    return [
        row | {name: value_of(row[name]) for name in ("metadata", "parameters", "messages", "reference")}
        for row in rows
    ]


def _is_seen(store: Reading, selection: Selection) -> bool:
    return selection.after >= max(store.newest(kind) for kind in (Feedback, Invocation, Score))


def _row(found: Row) -> Row:
    choices, reasons = value_of(found.pop("choices")), found.pop("finish_reasons") or []
    place = found["choice"]
    choice = next(each for each in choices if each["index"] == place)
    message = choice.get("message") or {}
    found["output_text"] = message.get("content") or choice.get("text") or ""
    found["finish_reason"] = reasons[place] if place < len(reasons) else choice.get("finish_reason")
    return found
