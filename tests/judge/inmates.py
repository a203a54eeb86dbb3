# SPDX-License-Identifier: Apache-2.0
"""Code in a sandbox of small limits, for tests."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from contract.grading import GraderError, Sample, Score
from contract.settings import SandboxSettings
from judge.graders.python import Python, PythonSpec
from judge.sandbox import close_all

SMALL = SandboxSettings(
    memory=128 * 2**20, disk=8 * 2**20, timeout=20.0, output=64 * 2**10, parallel=2, warm=2
)  # fmt: skip
HASTY = SMALL.model_copy(update={"timeout": 0.5})
"""For code that never ends."""


@pytest.fixture(scope="module", autouse=True)
def sandboxes() -> Iterator[None]:
    """None is left behind."""
    yield
    close_all()


def python(source: str, sandbox: SandboxSettings = SMALL) -> Python:
    return Python("mine", PythonSpec(type="python", source=source), sandbox)


def grade(source: str, *items: dict[str, Any], sandbox: SandboxSettings = SMALL) -> list[Score | GraderError]:
    """What a python grader says of rows with these items, whose answer is "the answer"."""
    samples = [Sample(id=f"row-{number}", output_text="the answer", item=item) for number, item in enumerate(items)]
    results = asyncio.run(python(source, sandbox).grade(samples))
    assert [result.id for result in results] == [sample.id for sample in samples]
    return results


def score(source: str, item: dict[str, Any] | None = None, sandbox: SandboxSettings = SMALL) -> float:
    """The one value of one row."""
    (result,) = grade(source, item or {}, sandbox=sandbox)
    assert isinstance(result, Score), result
    return result.value


def error(source: str, item: dict[str, Any] | None = None, sandbox: SandboxSettings = SMALL) -> tuple[str, str]:
    """Kind and message of the error of one row."""
    (result,) = grade(source, item or {}, sandbox=sandbox)
    assert isinstance(result, GraderError), result
    return result.kind, result.message
