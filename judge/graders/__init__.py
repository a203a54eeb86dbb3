# SPDX-License-Identifier: Apache-2.0
"""Graders by the JSON that declares them: OpenAI's, one file per kind."""

from collections.abc import Iterable
from typing import Any

from contract.errors import SettingsError
from contract.grading import Grader
from contract.settings import Settings
from judge.graders.spec import Place, by_name, read_spec
from judge.graders.string_check import StringCheck, StringCheckSpec

BUILT = ("string_check",)
NOT_BUILT = ("text_similarity", "score_model", "label_model", "python", "multi", "endpoint")


def build_grader(name: str, spec: dict[str, Any], place: Place = by_name) -> Grader:
    """The grader that ``spec`` declares, called ``name``; ``place`` says where a field of it was written.

    Raises:
        SettingsError: a type that is unknown or not built yet, or a field that is unknown, missing or wrong.
    """
    kind = spec.get("type")
    if kind == "string_check":
        return StringCheck(name, read_spec(StringCheckSpec, name, spec, place))
    at, built = place("graders", name, "type"), f"built are {', '.join(BUILT)}"
    if kind is None:
        raise SettingsError(f"{at}: is missing; {built}")
    if kind in NOT_BUILT:
        raise SettingsError(f"{at}: {kind!r}: is not built yet; {built}")
    raise SettingsError(f"{at}: {kind!r}: is no grader type; {built}")


def build_graders(settings: Settings, names: Iterable[str] | None = None) -> dict[str, Grader]:
    """The graders of the settings by name, every one where ``names`` is absent; see `build_grader`."""
    wanted = settings.graders if names is None else names
    return {name: build_grader(name, settings.graders[name], settings.place) for name in wanted}
