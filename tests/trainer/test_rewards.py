# SPDX-License-Identifier: Apache-2.0
from collections.abc import Sequence
from typing import Any

import pytest

from contract.grading import GraderError, Sample, Score
from judge.graders import build_grader
from trainer.dataset import Row
from trainer.rewards import Reward, TooManyFailures, item

EXACT = build_grader(
    "exact",
    {
        "type": "string_check",
        "operation": "eq",
        "input": "{{ sample.output_text }}",
        "reference": "{{ item.reference_answer }}",
    },
)


class Failing:
    """Fails on the answers that say so; remembers what it was asked."""

    name = "failing"
    version = "0" * 12
    needs_reference = False

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def grade(self, batch: Sequence[Sample]) -> list[Score | GraderError]:
        self.asked += [sample.output_text for sample in batch]
        return [
            GraderError(id=sample.id, kind="other", message="no")
            if sample.output_text == "fail"
            else Score(id=sample.id, value=1.0)
            for sample in reversed(batch)
        ]


async def rewards(reward: Reward, texts: list[str], reference: str = "yes") -> list[float | None]:
    prompts: list[list[dict[str, Any]]] = [[{"role": "user", "content": "is it?"}]] * len(texts)
    completions = [[{"role": "assistant", "content": text}] for text in texts]
    row = Row("inv_1", prompts[0], reference, "g", {"team": "x"})
    return await reward(
        prompts, completions, item=[item(row)] * len(texts), log_metric=lambda name, value: None, other=1
    )


async def test_the_reward_is_the_graders_score() -> None:
    assert await rewards(Reward([EXACT]), ["yes", "no", "yes "]) == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("path", ["item.metadata.team", "item.messages[0].content", "item.reference_answer"])
async def test_a_grader_sees_in_training_what_it_sees_live(path: str) -> None:
    grader = build_grader(
        "seen",
        {
            "type": "string_check",
            "operation": "eq",
            "input": "{{ sample.output_text }}",
            "reference": f"{{{{ {path} }}}}",
        },
    )
    answers = {"item.metadata.team": "x", "item.messages[0].content": "is it?", "item.reference_answer": "yes"}
    assert await rewards(Reward([grader]), [answers[path], "other"]) == [1.0, 0.0]


async def test_several_graders_give_their_mean() -> None:
    assert await rewards(Reward([EXACT, Failing()]), ["yes", "no"]) == [1.0, 0.5]


async def test_a_failed_grade_is_no_score_and_is_counted() -> None:
    reward = Reward([EXACT, Failing()])
    assert await rewards(reward, ["yes"] * 4 + ["fail"]) == [1.0] * 4 + [None]
    assert reward.failures == {"failing other": 1}


async def test_equal_answers_to_equal_prompts_are_graded_once() -> None:
    grader = Failing()
    assert await rewards(Reward([grader]), ["a", "b", "a", "a"]) == [1.0] * 4
    assert sorted(grader.asked) == ["a", "b"]


async def test_a_step_in_which_too_many_grades_failed_stops_the_job() -> None:
    with pytest.raises(TooManyFailures, match="2 of 4 completions could not be graded"):
        await rewards(Reward([Failing()]), ["fail", "fail", "a", "b"])
