# SPDX-License-Identifier: Apache-2.0
"""Graders over the official client, as jobs will have them."""

from typing import Any

import openai
import pytest

from tests.gateway.house import House

EXACT = {"type": "string_check", "name": "exact", "input": "{{ sample.output_text }}", "reference": "{{ item.right }}"}
EXACT["operation"] = "eq"
HALF = {"type": "multi", "name": "half", "graders": {"exact": EXACT}, "calculate_output": "exact / (1 + exact)"}
JUDGE = {"type": "score_model", "model": "plain", "input": [{"role": "user", "content": "{{ sample.output_text }}"}]}


async def run(home: House, grader: dict[str, Any], sample: str, **item: Any) -> Any:
    async with home.client() as client:
        given: Any = grader
        return await client.fine_tuning.alpha.graders.run(grader=given, model_sample=sample, item=item)


async def test_a_grader_is_tried_on_an_answer(home: House) -> None:
    found = await run(home, HALF, "Paris", right="Paris")
    assert found.reward == 0.5 and found.sub_rewards == {"exact": 1.0}
    assert (found.metadata.name, found.metadata.type, found.metadata.scores) == ("half", "multi", {"exact": 1.0})
    flags = found.metadata.errors.model_dump()
    assert not any(flags.values()), flags
    assert (await run(home, HALF, "Lyon", right="Paris")).reward == 0.0


@pytest.mark.parametrize(
    ("grader", "item", "flag"),
    [
        (EXACT, {}, "invalid_variable_error"),
        ({**HALF, "calculate_output": "1 / (1 - exact)"}, {"right": "Paris"}, "formula_parse_error"),
        ({"type": "match", "labels": ["a", "b"]}, {"reference_answer": "c"}, "sample_parse_error"),
    ],
)
async def test_what_fails_while_it_grades_is_told_by_its_kind(
    home: House, grader: dict[str, Any], item: dict[str, Any], flag: str
) -> None:
    found = await run(home, grader, "Paris", **item)
    assert found.reward is None and found.metadata.reason
    raised = [name for name, value in found.metadata.errors.model_dump().items() if value]
    assert raised == [flag]


async def test_a_judge_model_is_asked_with_the_key_of_the_caller(home: House) -> None:
    found = await run(home, JUDGE, "Paris")
    assert found.reward is None and found.metadata.errors.api_model_grader_parse_error  # the engine here says no JSON
    (asked,) = home.invocations()
    assert asked.project == "default" and asked.metadata and '"grader"' in asked.metadata


@pytest.mark.parametrize(
    ("grader", "param"),
    [
        ({**EXACT, "operation": "is"}, "grader.operation"),
        ({"type": "vibes"}, "grader.type"),
        ({**HALF, "graders": {"exact": {**EXACT, "input": "{{ nothing }}"}}}, "grader.graders.exact.input"),
        ({**JUDGE, "model": "gpt-9"}, "grader.model"),
        ({}, "grader.type"),
        ("exact", "grader"),
    ],
)
async def test_a_grader_that_cannot_be_built_is_named_by_field(home: House, grader: Any, param: str) -> None:
    async with home.client() as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.fine_tuning.alpha.graders.validate(grader=grader)
    assert caught.value.param == param


async def test_a_grader_that_can_be_built_is_given_back(home: House) -> None:
    async with home.client() as client:
        given: Any = EXACT
        found: Any = await client.fine_tuning.alpha.graders.validate(grader=given)
    assert found.grader.model_dump() == EXACT
