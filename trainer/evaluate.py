# SPDX-License-Identifier: Apache-2.0
"""What a model answers on the held-out rows: by its own greedy choice, and held to the labels.

Apart from the reward on purpose: an answer counts here when it is the reference word for word after white space at
its ends is taken off, whatever the graders say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from judge.statistics import Share, recall_per_class
from logger.prompts import Message
from trainer import plain, rollout
from trainer.dataset import Row
from trainer.shared_prompt import Ids, supports_tree

BATCH = 32
MAX_LABELS = 32
"""With more distinct references than this they are texts, not classes: no model is held to them."""


@dataclass(frozen=True)
class Answers:
    """One entry per held-out row, in order: the greedy answer, and the label that the model finds likeliest.

    ``constrained`` is None where there are too many labels to hold a model to.
    """

    greedy: list[str]
    constrained: list[str] | None

    def as_json(self) -> dict[str, list[str] | None]:
        """For a file that `Answers(**…)` reads back."""
        return asdict(self)


def encode_prompt(tokenizer: Any, messages: list[Message]) -> Ids:
    """The token ids that the engine sees for these messages."""
    return tuple(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))


def encode_label(tokenizer: Any, label: str) -> Ids:
    """The token ids of a label as a whole answer: without its end, a label that begins another would always win."""
    end = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
    return (*tokenizer(label, add_special_tokens=False).input_ids, *end)


def answer(
    model: nn.Module,
    tokenizer: Any,
    rows: Sequence[Row],
    labels: Sequence[str],
    max_new_tokens: int,
    progress: Callable[[int], None] = lambda _done: None,
) -> Answers:
    """Asks the model each row; where a tree computes the model, common prefixes are computed once."""
    was_training = model.training
    model.eval()
    eos = _eos_ids(model, tokenizer)
    ask = rollout.answer if supports_tree(model) else plain.answer
    words = [encode_label(tokenizer, label) for label in labels] if len(labels) <= MAX_LABELS else []
    greedy: list[str] = []
    constrained: list[str] = []
    with torch.no_grad(), torch.autocast(next(model.parameters()).device.type, torch.bfloat16, _is_bf16(model)):
        for first in range(0, len(rows), BATCH):
            prompts = [encode_prompt(tokenizer, row.messages) for row in rows[first : first + BATCH]]
            drawn, scores = ask(model, prompts, words, max_new_tokens=max_new_tokens, eos_ids=eos)
            greedy += [tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens in drawn]
            constrained += [labels[index] for index in scores.argmax(1).tolist()] if words else []
            progress(len(greedy))
    model.train(was_training)
    return Answers(greedy, constrained if words else None)


def figures(answers: Answers, rows: Sequence[Row], confidence: float) -> dict[str, Any]:
    """Exact-word share, constrained share (or None) and recall per class, each with its Wilson interval."""
    references = [row.reference for row in rows]
    return {
        "exact": share(correct(answers.greedy, references), confidence),
        "constrained": None
        if answers.constrained is None
        else share(correct(answers.constrained, references), confidence),
        "recall": {
            label: _figures(found, confidence) for label, found in recall_per_class(answers.greedy, references).items()
        },
        "mean_length": sum(map(len, answers.greedy)) / len(rows),
    }


def largest_class(rows: Sequence[Row], confidence: float) -> dict[str, Any]:
    """The share of the commonest label: what always giving the same answer would reach."""
    label, hits = Counter(row.reference for row in rows).most_common(1)[0]
    return {"label": label, **_figures(Share(hits, len(rows)), confidence)}


def correct(answers: Sequence[str], references: Sequence[str]) -> list[bool]:
    """Row by row, whether the answer is the reference."""
    return [given == right for given, right in zip(answers, references, strict=True)]


def share(hits: Sequence[bool], confidence: float) -> dict[str, Any]:
    """A share with its interval, as it stands in reports: hits, total, value, low, high."""
    return _figures(Share(sum(hits), len(hits)), confidence)


def _figures(found: Share, confidence: float) -> dict[str, Any]:
    low, high = found.interval(confidence)
    return {"hits": found.hits, "total": found.total, "value": found.value, "low": low, "high": high}


def _eos_ids(model: nn.Module, tokenizer: Any) -> set[int]:
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    several = configured if isinstance(configured, list) else [configured]
    return {int(token) for token in [*several, tokenizer.eos_token_id] if token is not None}


def _is_bf16(model: nn.Module) -> bool:
    return any(parameter.dtype == torch.bfloat16 for parameter in model.parameters())
