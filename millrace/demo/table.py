# SPDX-License-Identifier: Apache-2.0
"""What came out of the demo: the table, and whether the candidate is above everything it had to beat."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from rich import box
from rich.table import Table

from contract.money import NANO
from millrace.demo.log import Answered
from trainer.jobs import Job


@dataclass(frozen=True)
class Share:
    """A share of the held-out rows with its interval."""

    value: float
    low: float
    high: float
    total: int


@dataclass(frozen=True)
class Traffic:
    """What one version cost the application per answer, as the log has it; ``seconds`` is the median."""

    prompt_tokens: float
    completion_tokens: float
    cost_usd: float
    seconds: float


@dataclass(frozen=True)
class Contender:
    """One line of the table."""

    name: str
    right: Share
    recall: dict[str, Share]
    traffic: Traffic | None


@dataclass(frozen=True)
class Results:
    """Those that were to be beaten, and the candidate."""

    beaten: list[Contender]
    candidate: Contender
    rows: int
    confidence: float


def read_results(job: Job, before: Collection[Answered], after: Collection[Answered]) -> Results:
    """The results in a finished job's report, with what the application's answers cost before and after the release."""
    assert job.result is not None  # a job that succeeded has one
    report = job.result
    base, candidate, largest = report["base"], report["candidate"], report["largest_class"]
    right = _share(candidate["exact"])
    return Results(
        beaten=[
            Contender(f"always {largest['label']!r}", _share(largest), {}, None),
            Contender("base model, exact word", _share(base["exact"]), _recall(base), _traffic(before)),
            Contender("base model, held to the labels", _share(base["constrained"]), {}, None),
        ],
        candidate=Contender("candidate, exact word", right, _recall(candidate), _traffic(after)),
        rows=right.total,
        confidence=report["confidence"],
    )


def is_above_all(results: Results) -> bool:
    """Whether the candidate's interval lies wholly above each of the others."""
    return all(results.candidate.right.low > other.right.high for other in results.beaten)


def as_table(results: Results) -> Table:
    """The table, for a terminal."""
    labels = sorted(results.candidate.recall)
    made = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title=f"{results.rows} held-out rows, intervals at {results.confidence:.0%}",
        title_justify="left",
    )
    made.add_column("", no_wrap=True)
    for head in ("right", "interval", f"recall of\n{', '.join(labels)}", "tokens\nin + out", "USD per\n1,000", "p50"):
        made.add_column(head, justify="right")
    for contender in [*results.beaten, results.candidate]:
        recall = ", ".join(_percent(contender.recall[label].value) for label in labels) if contender.recall else ""
        right = contender.right
        style = "bold" if contender is results.candidate else ""
        interval = f"{_percent(right.low)}–{_percent(right.high)}"
        made.add_row(contender.name, _percent(right.value), interval, recall, *_cells(contender.traffic), style=style)
    return made


def verdict(results: Results) -> str:
    """One sentence."""
    if is_above_all(results):
        return "the candidate's interval lies wholly above the other three"
    near = [other.name for other in results.beaten if results.candidate.right.low <= other.right.high]
    return f"the candidate's interval is NOT wholly above: {', '.join(near)}"


def _share(found: Mapping[str, Any]) -> Share:
    return Share(found["value"], found["low"], found["high"], found["total"])


def _recall(figures: Mapping[str, Any]) -> dict[str, Share]:
    return {label: _share(found) for label, found in figures["recall"].items()}


def _traffic(answers: Collection[Answered]) -> Traffic | None:
    if not answers:
        return None
    return Traffic(
        prompt_tokens=fmean(answer.prompt_tokens for answer in answers),
        completion_tokens=fmean(answer.completion_tokens for answer in answers),
        cost_usd=fmean(answer.cost for answer in answers) / NANO,
        seconds=median(answer.seconds for answer in answers),
    )


def _cells(traffic: Traffic | None) -> tuple[str, str, str]:
    if traffic is None:
        return "", "", ""
    tokens = f"{traffic.prompt_tokens:.0f} + {traffic.completion_tokens:.1f}"
    return tokens, f"{traffic.cost_usd * 1000:.4f}", f"{traffic.seconds:.2f} s"


def _percent(value: float) -> str:
    return f"{value:.1%}"
