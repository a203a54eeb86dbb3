# SPDX-License-Identifier: Apache-2.0
"""The bill: what was used and what it costs, from sums over the log.

Amounts stay whole nano-dollars up to here. Each printed figure is rounded once, from the exact sum, so the total may
differ from the sum of the printed lines in the last digit; the total is the one that is right.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from contract.money import format_usd


@dataclass(frozen=True)
class Line:
    """What one version did under one public name."""

    model: str
    """Empty for what was refused before it had a model, whatever name it asked for."""
    version: str
    requests: int
    unmetered: int
    """Of these, how many have no usage: refused before any work, or failed before an answer began."""
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    cost: int
    """Nano-dollars."""


@dataclass(frozen=True)
class Bill:
    """Lines by model and version; prints as a table."""

    lines: tuple[Line, ...]

    @property
    def total(self) -> int:
        """Nano-dollars."""
        return sum(line.cost for line in self.lines)

    def __str__(self) -> str:
        """The table."""
        head = ("model", "version", "requests", "unmetered", "prompt", "cached", "completion", "amount")
        rows = [head, *(_cells(line) for line in self.lines), _cells(self._sum())]
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        lines = ["  ".join(_aligned(row, widths)).rstrip() for row in rows]
        rule = "  ".join("-" * width for width in widths)
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])

    def _sum(self) -> Line:
        return Line(
            "total",
            "",
            sum(line.requests for line in self.lines),
            sum(line.unmetered for line in self.lines),
            sum(line.prompt_tokens for line in self.lines),
            sum(line.cached_tokens for line in self.lines),
            sum(line.completion_tokens for line in self.lines),
            self.total,
        )


def bill(rows: Iterable[Mapping[str, Any]]) -> Bill:
    """The bill over the rows of `logger.client.LoggerClient.usage`, grouped by alias and version at least.

    Rows of the same model and version are added up; an absent sum counts as none.
    """
    sums: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        model = row["alias"] if row["version"] else ""
        known = sums.setdefault((model, row["version"]), [0] * len(_SUMS))
        for index, name in enumerate(_SUMS):
            known[index] += row[name] or 0
    return Bill(tuple(Line(model, version, *sums[model, version]) for model, version in sorted(sums)))


_SUMS = ("requests", "unmetered", "prompt_tokens", "cached_tokens", "completion_tokens", "cost")


def _cells(line: Line) -> tuple[str, ...]:
    counts = (line.requests, line.unmetered, line.prompt_tokens, line.cached_tokens, line.completion_tokens)
    return (line.model or "(unknown)", line.version, *(f"{count:,}" for count in counts), format_usd(line.cost))


def _aligned(row: tuple[str, ...], widths: list[int]) -> list[str]:
    """Names to the left, figures to the right."""
    return [
        cell.ljust(width) if index < 2 else cell.rjust(width)
        for index, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
