# SPDX-License-Identifier: Apache-2.0
"""Graders by the JSON that declares them: OpenAI's, one file per kind."""

from collections.abc import Callable, Iterable
from typing import Any

from contract.errors import SettingsError
from contract.grading import Grader
from contract.settings import Settings
from judge.graders.constraints import Constraints, ConstraintsSpec
from judge.graders.match import Match, MatchSpec
from judge.graders.multi import Multi, MultiSpec
from judge.graders.spec import Place, by_name, read_spec
from judge.graders.string_check import StringCheck, StringCheckSpec
from judge.graders.text_similarity import TextSimilarity, TextSimilaritySpec

Build = Callable[[str, dict[str, Any], Place], Grader]


def _multi(name: str, spec: dict[str, Any], place: Place) -> Grader:
    read = read_spec(MultiSpec, name, spec, place)
    parts = {part: build_grader(part, each, _inside(name, place)) for part, each in read.graders.items()}
    return Multi(name, read, parts)


KINDS: dict[str, Build] = {
    "string_check": lambda name, spec, place: StringCheck(name, read_spec(StringCheckSpec, name, spec, place)),
    "text_similarity": lambda name, spec, place: TextSimilarity(name, read_spec(TextSimilaritySpec, name, spec, place)),
    "multi": _multi,
    "constraints": lambda name, spec, place: Constraints(name, read_spec(ConstraintsSpec, name, spec, place)),
    "match": lambda name, spec, place: Match(name, read_spec(MatchSpec, name, spec, place)),
}
"""How each type of grader is made of its name, its specification and the place of that."""
NOT_BUILT = ("score_model", "label_model", "python", "endpoint")


def build_grader(name: str, spec: dict[str, Any], place: Place = by_name) -> Grader:
    """The grader that ``spec`` declares, called ``name``; ``place`` says where a field of it was written.

    Raises:
        SettingsError: a type that is unknown or not built yet, or a field that is unknown, missing or wrong.
    """
    kind = spec.get("type")
    if isinstance(kind, str) and kind in KINDS:
        return KINDS[kind](name, spec, place)
    at, built = place("graders", name, "type"), f"built are {', '.join(KINDS)}"
    if kind is None:
        raise SettingsError(f"{at}: is missing; {built}")
    if kind in NOT_BUILT:
        raise SettingsError(f"{at}: {kind!r}: is not built yet; {built}")
    raise SettingsError(f"{at}: {kind!r}: is no grader type; {built}")


def _inside(name: str, place: Place) -> Place:
    """Where the fields of a grader stand that is part of another."""
    return lambda *at: place("graders", name, *at)


def build_graders(settings: Settings, names: Iterable[str] | None = None) -> dict[str, Grader]:
    """The graders of the settings by name, every one where ``names`` is absent; see `build_grader`."""
    wanted = settings.graders if names is None else names
    return {name: build_grader(name, settings.graders[name], settings.place) for name in wanted}
