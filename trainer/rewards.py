# SPDX-License-Identifier: Apache-2.0
"""The reward is what the loop's graders say: their mean, or nothing where one of them could not say.

A failed grade is never a score: the completion is masked, the failure is counted by kind, and a step in which too
many failed stops the job. Equal completions of equal prompts are graded once.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from contract.errors import OperatorError
from contract.grading import Grader, GraderError, Sample, by_id
from judge.answers import item_of
from trainer.dataset import Row

MAX_FAILED = 0.2
"""The share of a step's completions that may go without a grade."""


def item(row: Row) -> str:
    """What the graders' templates read under ``item``, as JSON: the same as in live scoring."""
    return json.dumps(item_of({"messages": row.messages, "metadata": row.metadata}, row.reference))


class TooManyFailures(OperatorError):
    """The graders could not grade enough of a step to learn from it."""


class Reward:
    """The loop's graders as a reward function of TRL (asynchronous, one value or None per completion)."""

    __name__ = "reward"

    def __init__(self, graders: Sequence[Grader]) -> None:
        self._graders = graders
        self.failures: Counter[str] = Counter()
        """Failed grades since the start, by grader and kind."""

    async def __call__(
        self,
        prompts: list[list[dict[str, Any]]],
        completions: list[list[dict[str, Any]]],
        item: list[str],
        log_metric: Callable[[str, float], None],
        **_: Any,
    ) -> list[float | None]:
        """The mean over the graders, for each completion; ``item`` as `item` made it.

        Raises:
            TooManyFailures: over `MAX_FAILED` of them have no grade.
        """
        texts = [completion[0]["content"] for completion in completions]
        keys = list(zip(item, texts, strict=True))
        samples = {
            key: Sample(id=str(number), output_text=key[1], messages=prompt, item=json.loads(key[0]))
            for number, (key, prompt) in enumerate(zip(keys, prompts, strict=True))
        }
        graded = await self._grade(list(samples.values()))
        rewards = [graded[samples[key].id] for key in keys]
        missing = sum(reward is None for reward in rewards)
        log_metric("ungraded", missing / len(rewards))
        if missing > MAX_FAILED * len(rewards):
            kinds = ", ".join(f"{kind}: {count}" for kind, count in self.failures.most_common(3))
            raise TooManyFailures(f"{missing} of {len(rewards)} completions could not be graded ({kinds})")
        return rewards

    async def _grade(self, batch: list[Sample]) -> dict[str, float | None]:
        values: dict[str, list[float | None]] = {sample.id: [] for sample in batch}
        for grader in self._graders:
            for identifier, result in by_id(await grader.grade(batch), batch).items():
                if isinstance(result, GraderError):
                    self.failures[f"{grader.name} {result.kind}"] += 1
                    values[identifier].append(None)
                else:
                    values[identifier].append(result.value)
        return {identifier: _mean(found) for identifier, found in values.items()}


def _mean(values: list[float | None]) -> float | None:
    """The mean, or None where any is missing."""
    given = [value for value in values if value is not None]
    return fmean(given) if len(given) == len(values) else None
