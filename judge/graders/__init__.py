# SPDX-License-Identifier: Apache-2.0
"""Graders by the JSON that declares them: OpenAI's, one file per kind."""

from collections.abc import Mapping
from typing import Any

from contract.errors import SettingsError
from contract.grading import Grader
from judge.graders.spec import read_spec
from judge.graders.string_check import StringCheck, StringCheckSpec

BUILT = ("string_check",)
NOT_BUILT = ("text_similarity", "score_model", "label_model", "python", "multi", "endpoint")


def build_grader(name: str, spec: dict[str, Any]) -> Grader:
    """The grader that ``spec`` declares, called ``name``.

    Raises:
        SettingsError: a type that is unknown or not built yet, or a field that is unknown, missing or wrong.
    """
    kind = spec.get("type")
    if kind == "string_check":
        return StringCheck(name, read_spec(StringCheckSpec, name, spec))
    built = f"built are {', '.join(BUILT)}"
    if kind is None:
        raise SettingsError(f"graders.{name}.type: is missing; {built}")
    if kind in NOT_BUILT:
        raise SettingsError(f"graders.{name}.type: {kind!r}: is not built yet; {built}")
    raise SettingsError(f"graders.{name}.type: {kind!r}: is no grader type; {built}")


def build_graders(specs: Mapping[str, dict[str, Any]]) -> dict[str, Grader]:
    """Every grader of the settings by name; see `build_grader`."""
    return {name: build_grader(name, spec) for name, spec in specs.items()}
