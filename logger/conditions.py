# SPDX-License-Identifier: Apache-2.0
"""A `Filter` as parts of an SQL statement. What it was given is bound; nothing of it is in the text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from contract.settings import FeedbackFilter, Filter, MetadataFilter, MetadataPair, ScoreFilter, nanoseconds
from logger.opinions import OPINION, newest

_SCORES = """
{name} AS (
    SELECT cursor, project, invocation, choice, value FROM scores
    WHERE cursor <= $until AND value IS NOT NULL AND NOT isnan(value) AND {of}
    QUALIFY row_number() OVER (PARTITION BY project, invocation, choice ORDER BY cursor DESC) = 1
)
"""
_OPINIONS = "{name}_given AS (SELECT {columns} FROM feedback WHERE cursor <= $until AND {of})"


@dataclass(frozen=True)
class Conditions:
    """A filter on the choice ``n.choice`` of the invocation ``i``, in a statement that has the table `ANSWERS`."""

    tables: str
    """More tables for its WITH, each after a comma."""
    joins: str
    """For its FROM; they add no row and leave none out."""
    fixed: str
    """What holds or not for good, whatever comes into the log later."""
    later: str
    """What a later score or opinion can change."""
    cursors: list[str]
    """The cursors of the scores and opinions that decided; null where there are none."""
    parameters: dict[str, Any]
    """What it binds beside ``until``."""

    def parts(self) -> dict[str, str]:
        """What a template of a statement names."""
        return {"tables": self.tables, "joins": self.joins, "fixed": self.fixed, "later": self.later}


def conditions(chosen: Filter) -> Conditions:
    """The filter's meaning.

    A condition on metadata looks at the metadata as it is now; what was erased has none.
    """
    bound = _Bound()
    fixed = [
        each for each in (_metadata(chosen.metadata, bound), *_listed(chosen, bound), *_times(chosen, bound)) if each
    ]
    tables, joins, later, cursors = [], [], [], []
    for place, score in enumerate(chosen.scores):
        name = f"score_{place}"
        tables.append(_scores(name, score, bound))
        joins.append(
            f"LEFT JOIN {name} ON {name}.project = i.project AND {name}.invocation = i.id AND {name}.choice = n.choice"
        )
        later.append(
            " AND ".join([f"{name}.cursor IS NOT NULL", *_range(f"{name}.value", score.min, score.max, bound)])
        )
        cursors.append(f"{name}.cursor")
    for place, opinion in enumerate(chosen.feedback):
        name = f"opinion_{place}"
        tables.append(_opinions(name, opinion, bound))
        joins.append(f"LEFT JOIN {name} ON {name}.answer = i.cursor AND {name}.choice = n.choice")
        later.append(" AND ".join([f"{name}.cursor IS NOT NULL", *_valued(f"{name}.value::JSON", opinion, bound)]))
        cursors.append(f"{name}.cursor")
    return Conditions(
        "".join(f", {table}" for table in tables), " ".join(joins), _all(fixed), _all(later), cursors, bound.values
    )


def pointer(key: str) -> str:
    """A key as a JSON pointer (RFC 6901): the one form that takes any key for what it is."""
    return "/" + key.replace("~", "~0").replace("/", "~1")


class _Bound:
    """Values under names that no other part of a statement has."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def __call__(self, value: Any) -> str:
        name = f"filter_{len(self.values)}"
        self.values[name] = value
        return f"${name}"


def _all(parts: Sequence[str]) -> str:
    """All of them, as true or false and never null."""
    return f"(coalesce({' AND '.join(f'({part})' for part in parts)}, false))" if parts else "true"


def _metadata(chosen: MetadataFilter | None, bound: _Bound) -> str:
    if chosen is None:
        return ""
    if chosen.andAll is not None:
        return " AND ".join(_pair(each, bound) for each in chosen.andAll)
    if chosen.orAll is not None:
        return " OR ".join(_pair(each, bound) for each in chosen.orAll)
    return _pair(chosen, bound)


def _pair(pair: MetadataPair, bound: _Bound) -> str:
    ((key, value),) = (pair.equals or pair.notEquals or {}).items()
    compared = "IS NOT DISTINCT FROM" if pair.equals is not None else "IS DISTINCT FROM"
    return f"(i.metadata::JSON ->> {bound(pointer(key))}::VARCHAR) {compared} {bound(value)}::VARCHAR"


def _listed(chosen: Filter, bound: _Bound) -> list[str]:
    parts = []
    if chosen.models:
        names = f"{bound(chosen.models)}::VARCHAR[]"
        parts.append(f"list_contains({names}, i.alias) OR list_contains({names}, i.version)")
    if chosen.versions:
        parts.append(f"list_contains({bound(chosen.versions)}::VARCHAR[], i.version)")
    if chosen.finish_reasons:
        parts.append(f"list_contains({bound(chosen.finish_reasons)}::VARCHAR[], i.finish_reasons[n.choice + 1])")
    return parts


def _times(chosen: Filter, bound: _Bound) -> list[str]:
    since = [] if chosen.since is None else [f"i.time >= {bound(nanoseconds(chosen.since))}"]
    return since if chosen.until is None else [*since, f"i.time < {bound(nanoseconds(chosen.until))}"]


def _scores(name: str, chosen: ScoreFilter, bound: _Bound) -> str:
    of = f"grader = {bound(chosen.grader)}"
    if chosen.version is not None:
        of += f" AND grader_version = {bound(chosen.version)}"
    return _SCORES.format(name=name, of=of)


def _opinions(name: str, chosen: FeedbackFilter, bound: _Bound) -> str:
    of = f"metric = {bound(chosen.metric)}"
    if chosen.author is not None:
        of += f" AND author = {bound(chosen.author)}"
    return _OPINIONS.format(name=name, columns=OPINION, of=of) + ", " + newest(name, f"{name}_given")


def _valued(value: str, chosen: FeedbackFilter, bound: _Bound) -> list[str]:
    """Values of another type than the one asked for are not equal to it and in no range.

    No part may fail on such a value: DuckDB does not keep to the order of an AND.
    """
    number = f"(CASE WHEN json_type({value}) IN ('BIGINT', 'UBIGINT', 'DOUBLE') THEN try_cast({value} AS DOUBLE) END)"
    if isinstance(chosen.equals, bool):
        return [f"json_type({value}) = 'BOOLEAN'", f"({value} ->> '$') = {bound(str(chosen.equals).lower())}::VARCHAR"]
    if isinstance(chosen.equals, str):
        return [f"json_type({value}) = 'VARCHAR'", f"({value} ->> '$') = {bound(chosen.equals)}::VARCHAR"]
    if chosen.equals is not None:
        return [f"{number} = {bound(float(chosen.equals))}"]
    return _range(number, chosen.min, chosen.max, bound)


def _range(number: str, least: float | None, most: float | None, bound: _Bound) -> list[str]:
    above = [] if least is None else [f"{number} >= {bound(float(least))}"]
    return above if most is None else [*above, f"{number} <= {bound(float(most))}"]
