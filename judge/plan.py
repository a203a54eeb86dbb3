# SPDX-License-Identifier: Apache-2.0
"""What the settings ask the live judge to do, checked before anything starts."""

from dataclasses import dataclass

from contract.errors import SettingsError
from contract.grading import Grader
from contract.settings import JudgeSampling, Settings
from judge.graders import build_graders


@dataclass(frozen=True)
class Assignment:
    """One entry of ``judge.live`` with the grader it names and the models it covers."""

    sampling: JudgeSampling
    grader: Grader
    models: list[str]


def assignments(settings: Settings) -> list[Assignment]:
    """Every entry of ``judge.live``.

    Raises:
        SettingsError: a grader's specification is wrong, a grader is sampled by two entries, or one that needs a
            reference has no metric to take it from.
    """
    graders = build_graders(settings)
    found: list[Assignment] = []
    for index, sampling in enumerate(settings.judge.live):
        grader = graders[sampling.grader]
        if any(earlier.grader is grader for earlier in found):
            at = settings.place("judge", "live", index, "grader")
            raise SettingsError(f"{at}: {grader.name!r} is sampled by an earlier entry; list the models there")
        if grader.needs_reference and sampling.reference is None:
            at = settings.place("judge", "live", index, "reference")
            raise SettingsError(
                f"{at}: is missing; the grader {grader.name!r} reads item.reference_answer: "
                f"name the feedback metric that gives it"
            )
        found.append(Assignment(sampling, grader, sampling.models or sorted(settings.models)))
    return found
