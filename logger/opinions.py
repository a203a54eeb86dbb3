# SPDX-License-Identifier: Apache-2.0
"""Which answer a piece of feedback is on: parts of statements that several questions share.

Feedback on a conversation is on the newest complete answer of it that the log had when the feedback came; where there
was none, on the first that came after. So it never moves to another answer.
"""

ANSWERS = """
answers AS (
    SELECT cursor, id, project, conversation, time FROM invocations WHERE cursor <= $until AND status = 'complete'
)
"""
"""What feedback may be on, up to the cursor ``$until``."""
OPINION = "cursor, id AS feedback_id, project, value, coalesce(choice, 0) AS choice, invocation, conversation"
"""The columns of ``feedback`` that `newest` needs."""
_NEWEST = """
{name}_placed AS (
    SELECT o.*, a.cursor AS answer FROM {opinions} o JOIN answers a ON a.id = o.invocation AND a.project = o.project
    UNION ALL
    SELECT o.*, a.cursor
    FROM {opinions} o JOIN answers a ON a.conversation = o.conversation AND a.project = o.project
    WHERE o.invocation IS NULL
    QUALIFY row_number() OVER (
        PARTITION BY o.cursor
        ORDER BY a.cursor > o.cursor, CASE WHEN a.cursor > o.cursor THEN a.cursor ELSE -a.time END, a.cursor DESC
    ) = 1
),
{name} AS (
    SELECT *, greatest(cursor, answer) AS due, min(greatest(cursor, answer)) OVER (PARTITION BY {of}) AS first
    FROM {name}_placed
    QUALIFY row_number() OVER (PARTITION BY {of} ORDER BY cursor DESC) = 1
)
"""


def newest(name: str, opinions: str, of: str = "answer, choice") -> str:
    """The table ``name``: the newest of some opinions on each choice of each of the `ANSWERS`, or ``of`` what else.

    Its columns: those of ``opinions``, a table with the columns `OPINION`; ``answer``, the answer's cursor; ``due``,
    the cursor that made the row whole; ``first``, the one that did so with the first opinion.
    """
    return _NEWEST.format(name=name, opinions=opinions, of=of)
