# SPDX-License-Identifier: Apache-2.0
"""Whether a candidate may be released: its interval against what it has to beat, over the same held-out rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from contract.settings.loops import Gate
from judge.statistics import paired_bootstrap


@dataclass(frozen=True)
class Verdict:
    """``admitted`` or not, why in words, and every figure that was used."""

    admitted: bool
    reason: str
    figures: dict[str, float | int]


def decide(
    gate: Gate,
    candidate: dict[str, Any],
    base: dict[str, Any],
    largest_class: dict[str, Any],
    paired: tuple[Sequence[bool], Sequence[bool]] | None,
) -> Verdict:
    """The verdict on a candidate.

    Args:
        gate: what the loop demands.
        candidate: `trainer.evaluate.figures` of the candidate.
        base: the same of the base model; its ``constrained`` may be None, and is then not asked for.
        largest_class: `trainer.evaluate.largest_class`.
        paired: row by row, whether candidate and incumbent were right; None where no version is live.
    """
    exact = candidate["exact"]
    figures: dict[str, float | int] = {
        "heldout_rows": exact["total"],
        "confidence": gate.confidence,
        "candidate": exact["value"],
        "candidate_low": exact["low"],
        "candidate_high": exact["high"],
    }
    failures = []
    if exact["total"] < gate.min_rows:
        failures.append(f"{exact['total']} held-out rows are fewer than min_rows = {gate.min_rows}")
    rivals = {"largest_class": largest_class, "base": base["exact"], "base_constrained": base["constrained"]}
    absent = [name for name in gate.beats if name in rivals and rivals[name] is None]
    for name, rival in rivals.items():
        if rival is None:
            continue
        figures[name], figures[f"{name}_high"] = rival["value"], rival["high"]
        if name in gate.beats and exact["low"] <= rival["high"]:
            failures.append(
                f"its low end {exact['low']:.3f} is not above {_NAMES[name]}'s high end {rival['high']:.3f}"
            )
    if paired is not None:
        low, high = paired_bootstrap(*paired, confidence=gate.confidence)
        figures["incumbent"] = sum(paired[1]) / len(paired[1])
        figures["over_incumbent_low"], figures["over_incumbent_high"] = low, high
        if "incumbent" in gate.beats and high < 0:
            failures.append(f"it is worse than the version that is live, by {-high:.3f} to {-low:.3f}")
    if failures:
        return Verdict(False, "; ".join(failures), figures)
    beaten = [_NAMES[name] for name in rivals if name in gate.beats and name not in absent]
    above = f"; its low end {exact['low']:.3f} is above {', '.join(beaten)}" if beaten else ""
    unasked = "".join(f"; {_NAMES[name]} was not asked for: there are too many labels" for name in absent)
    return Verdict(True, f"{exact['value']:.3f} of {exact['total']} held-out rows are right{above}{unasked}", figures)


_NAMES = {
    "largest_class": "the largest class",
    "base": "the base model",
    "base_constrained": "the base model held to the labels",
}
