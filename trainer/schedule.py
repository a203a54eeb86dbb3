# SPDX-License-Identifier: Apache-2.0
"""When a loop starts a job by itself: a decision over counts and times, without I/O."""

from dataclasses import dataclass

from contract.settings import Loop
from trainer.jobs import Job, JobState

NANOSECONDS = 1_000_000_000
RETRY_SECONDS = 300.0
MAX_RETRY_SECONDS = 24 * 3600.0
UNFINISHED = frozenset({JobState.VALIDATING, JobState.QUEUED, JobState.RUNNING, JobState.PAUSED})


@dataclass(frozen=True)
class Evidence:
    """What is known of a loop at one moment."""

    new_rows: int
    """Labelled rows since the newest job that used its own; one that failed before its dataset used none."""
    all_rows: int
    """Labelled rows that a job would read."""
    cursor: int
    """The log's cursor up to which they were counted."""
    since_ns: int
    """When that job was made; before the first, when the loop was first seen."""
    failures: int = 0
    """How many jobs since then failed before their dataset."""
    failed_ns: int = 0
    """When the last of them did."""


@dataclass(frozen=True)
class Due:
    """``start`` a job or not; ``reason`` is None where there is nothing to say."""

    start: bool
    reason: str | None


def due(loop: Loop, latest: Job | None, evidence: Evidence, now_ns: int) -> Due:
    """Whether a loop starts a job now."""
    if latest is not None and latest.status in UNFINISHED:
        return Due(False, None)
    if evidence.failures and now_ns - evidence.failed_ns < retry_delay(evidence.failures) * NANOSECONDS:
        return Due(False, None)
    reason = _trigger(loop, evidence, now_ns)
    if reason is None:
        return Due(False, None)
    if evidence.all_rows < loop.data.min_rows:
        return Due(False, f"{reason}, but {evidence.all_rows} labelled rows are fewer than {loop.data.min_rows}")
    return Due(True, reason)


def retry_delay(failures: int) -> float:
    """Seconds from the last of so many failures in a row to the next job: doubled each time, up to a day."""
    return min(MAX_RETRY_SECONDS, RETRY_SECONDS * 2.0 ** min(failures - 1, 16))


def _trigger(loop: Loop, evidence: Evidence, now_ns: int) -> str | None:
    trigger = loop.trigger
    if trigger.new_rows is not None and evidence.new_rows >= trigger.new_rows:
        return f"{evidence.new_rows} new labelled rows reach {trigger.new_rows}"
    waited = (now_ns - evidence.since_ns) / NANOSECONDS
    if trigger.every is not None and evidence.new_rows > 0 and waited >= trigger.every:
        return (
            f"{waited:.0f} s since the last job reach {trigger.every:.0f}, with {evidence.new_rows} new labelled rows"
        )
    return None
