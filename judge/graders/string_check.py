# SPDX-License-Identifier: Apache-2.0
"""``string_check``: 1 where two rendered texts compare as asked, else 0. OpenAI's grader of that name.

eq     input is exactly the reference
ne     input is anything else
like   input contains the reference
ilike  input contains the reference, case aside
"""

from collections.abc import Callable, Sequence
from typing import Literal

from contract.grading import GraderError, Sample, Score
from judge.graders.spec import Spec, TemplateText, version_of
from judge.templates import InvalidVariable, parse

OPERATIONS: dict[str, Callable[[str, str], bool]] = {
    "eq": lambda text, reference: text == reference,
    "ne": lambda text, reference: text != reference,
    "like": lambda text, reference: reference in text,
    "ilike": lambda text, reference: reference.casefold() in text.casefold(),
}


class StringCheckSpec(Spec):
    """The specification, field by field as OpenAI has it."""

    type: Literal["string_check"]
    input: TemplateText
    reference: TemplateText
    operation: Literal["eq", "ne", "like", "ilike"]


class StringCheck:
    """The grader."""

    def __init__(self, name: str, spec: StringCheckSpec) -> None:
        self.name = name
        self.version = version_of(spec)
        self._input = parse(spec.input)
        self._reference = parse(spec.reference)
        self.needs_reference = self._input.needs_reference or self._reference.needs_reference
        self._holds = OPERATIONS[spec.operation]

    async def grade(self, batch: Sequence[Sample]) -> list[Score | GraderError]:
        """One entry per sample."""
        return [self._grade(sample) for sample in batch]

    def _grade(self, sample: Sample) -> Score | GraderError:
        try:
            holds = self._holds(self._input.render(sample), self._reference.render(sample))
        except InvalidVariable as error:
            return GraderError(id=sample.id, kind="invalid_variable", message=str(error))
        return Score(id=sample.id, value=float(holds))
