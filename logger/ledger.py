# SPDX-License-Identifier: Apache-2.0
"""Sums over invocations: what a bill, a dashboard and `millrace usage` are made of.

Every invocation is in the log once, so a sum over the log is a sum over what happened. Nothing rounds here: costs are
whole nano-dollars. Usage that is unknown is counted as unknown, not as 0 tokens. Quantiles of times alone are near
(t-digest, Dunning and Ertl 2019): exact ones would hold every value at once.
"""

from collections.abc import Sequence
from typing import Any

from contract.errors import InvalidRequest
from logger.queries import Row
from logger.reading import Reading, between

GROUPS = (
    "alias", "version", "project", "key", "user", "endpoint", "status", "replica", "usage_source", "price_version",
    "error_code",
)  # fmt: skip
"""What sums can be grouped by; a name outside is refused, so that it never reaches a statement."""
_SUMS = """
    count(*) AS requests,
    count(*) FILTER (prompt_tokens IS NULL) AS unmetered,
    coalesce(sum(prompt_tokens), 0)::BIGINT AS prompt_tokens,
    coalesce(sum(cached_tokens), 0)::BIGINT AS cached_tokens,
    coalesce(sum(completion_tokens), 0)::BIGINT AS completion_tokens,
    coalesce(sum(cost), 0)::BIGINT AS cost,
    avg(total_ns) AS mean_ns,
    approx_quantile(total_ns, 0.5) AS p50_ns,
    approx_quantile(total_ns, 0.95) AS p95_ns
"""


def usage(
    store: Reading,
    group_by: Sequence[str],
    bucket_seconds: int | None = None,
    since_ns: int | None = None,
    until_ns: int | None = None,
    project: str | None = None,
) -> list[Row]:
    """A row of sums for each group, ordered by its keys.

    Raises:
        InvalidRequest: ``group_by`` holds something that is not in `GROUPS`, or twice the same.
    """
    for name in group_by:
        if name not in GROUPS or group_by.count(name) > 1:
            raise InvalidRequest(f"group_by: {name!r}: each of {', '.join(GROUPS)} at most once", param="group_by")
    keys = [f'"{name}"' for name in group_by]
    conditions, moments = between(store, since_ns, until_ns)
    parameters: dict[str, Any] = dict(moments)
    if project is not None:
        conditions.append("project = $project")
        parameters["project"] = project
    if bucket_seconds is not None:
        keys.insert(0, "(time // $width * $width) AS bucket")
        parameters["width"] = bucket_seconds * 1_000_000_000
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    statement = f"SELECT {', '.join([*keys, _SUMS])} FROM invocations{where}"
    if keys:
        places = ", ".join(str(place) for place in range(1, len(keys) + 1))
        statement += f" GROUP BY {places} ORDER BY {places}"
    return store.fetch(statement, parameters)
