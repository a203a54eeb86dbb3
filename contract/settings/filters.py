# SPDX-License-Identifier: Apache-2.0
"""Which answers of the log are meant: one filter for loops, jobs and exports.

Every condition that is given must hold; an empty filter takes every answer. What each means is in its description,
and `logger/conditions.py` is the only place that reads one.
"""

import re
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from contract.settings.units import Section, Written

_NANO = 1_000_000_000
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_FORM = "a time is RFC 3339 with its offset (2026-11-23T20:00:00Z) or seconds since 1970"
_LATEST = 2**63 - 1


def nanoseconds(instant: str) -> int:
    """An `Instant` as UTC nanoseconds since 1970.

    Raises:
        ValueError: it is no RFC 3339 time with an offset, or beyond the year 2262.
    """
    match = _RFC3339.fullmatch(instant.strip())
    if match is None:
        raise ValueError(_FORM)
    day, clock, fraction, offset = match.groups()
    try:
        whole = datetime.fromisoformat(f"{day}T{clock}{offset.upper()}")
    except ValueError as error:
        raise ValueError(f"{_FORM}: {error}") from None
    found = int(whole.timestamp()) * _NANO + int((fraction or "").ljust(9, "0"))
    if abs(found) > _LATEST:
        raise ValueError("a time must be between the years 1678 and 2262")
    return found


def _instant(value: Any) -> Any:
    """Any way to write a time as RFC 3339 in UTC, so that a filter that was stored reads as it was given."""
    if isinstance(value, datetime):  # what YAML makes of a time without quotes
        if value.tzinfo is None:
            raise ValueError(_FORM)
        value = value.isoformat()
    elif isinstance(value, date | bool):
        raise ValueError(_FORM)
    elif isinstance(value, int | float):
        return _written(_nanoseconds_of(value))
    return _written(nanoseconds(value)) if isinstance(value, str) else value


def _nanoseconds_of(seconds: float) -> int:
    try:
        found = int(Decimal(str(seconds)) * _NANO)
    except (InvalidOperation, OverflowError, ValueError):
        raise ValueError(_FORM) from None
    if abs(found) > _LATEST:
        raise ValueError("a time must be between the years 1678 and 2262")
    return found


def _written(nanoseconds: int) -> str:
    seconds, rest = divmod(nanoseconds, _NANO)
    fraction = f".{rest:09d}".rstrip("0") if rest else ""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}{fraction}Z"


Instant = Annotated[str, BeforeValidator(_instant), Written("time", str)]
"""RFC 3339 with an offset, or seconds since 1970; held as RFC 3339 in UTC."""
Pair = Annotated[dict[str, str], Field(min_length=1, max_length=1)]
"""One key with one value."""


class MetadataPair(Section):
    """Exactly one of the two."""

    equals: Pair | None = Field(None, description="key: value; the request's metadata has the key with that value")
    notEquals: Pair | None = Field(
        None, description="key: value; the metadata has the key with another value, or does not have it"
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            names = ", ".join(type(self).model_fields)
            raise ValueError(f"needs exactly one of {names}; given are {', '.join(given) or 'none'}")
        return self


class MetadataFilter(MetadataPair):
    """Exactly one of the four; names and bounds as Amazon Bedrock's requestMetadataFilters has them."""

    andAll: list[MetadataPair] | None = Field(None, min_length=1, max_length=16, description="all of 1 to 16 hold")
    orAll: list[MetadataPair] | None = Field(None, min_length=1, max_length=16, description="one of 1 to 16 holds")


class _Range(Section):
    min: float | None = Field(None, description="least value, included")
    max: float | None = Field(None, description="greatest value, included")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min = {self.min:g} is above max = {self.max:g}")
        return self


class ScoreFilter(_Range):
    """The newest score that a grader gave the answer; an error of the grader is no score.

    Without bounds, any score will do.
    """

    grader: str = Field(description="name of the grader")
    version: str | None = Field(None, description="only scores of this version of the grader, 12 hex digits")


class FeedbackFilter(_Range):
    """The newest feedback of a metric on the answer, whoever gave it. Without equals and bounds, any value will do.

    A value of another type than the one asked for is not equal to it, and in no range.
    """

    metric: str = Field(description="metric under log.feedback")
    author: str | None = Field(None, description="only feedback of this author")
    equals: bool | float | str | None = Field(None, description="the value: true or false, a number or a text")

    @model_validator(mode="after")
    def _either(self) -> Self:
        if self.equals is not None and (self.min is not None or self.max is not None):
            raise ValueError("needs equals or bounds, not both")
        return self


class Filter(Section):
    """Which answers of the log. Every given condition must hold."""

    metadata: MetadataFilter | None = Field(None, description="what the request's metadata must be")
    models: list[str] = Field([], description="names asked for, or of base models that answered; empty allows all")
    versions: list[str] = Field([], description="what answered, such as triage@0123456789ab; empty allows all")
    since: Instant | None = Field(None, description="earliest time of the request, included")
    until: Instant | None = Field(None, description="latest time of the request, excluded")
    scores: list[ScoreFilter] = Field([], max_length=16, description="scores that the answer must have, all of them")
    feedback: list[FeedbackFilter] = Field(
        [], max_length=16, description="feedback that the answer must have, all of it"
    )
    finish_reasons: list[str] = Field([], description="finish reasons allowed; empty allows all")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.since is not None and self.until is not None and nanoseconds(self.since) >= nanoseconds(self.until):
            raise ValueError(f"since = {self.since} is not before until = {self.until}")
        return self
