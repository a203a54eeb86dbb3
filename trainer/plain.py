# SPDX-License-Identifier: Apache-2.0
"""The answers of `trainer.rollout.answer` for models that a tree does not compute: one prompt at a time, no padding."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from trainer.shared_prompt import Ids


@torch.no_grad()
def answer(
    model: nn.Module, prompts: Sequence[Ids], words: Sequence[Ids], *, max_new_tokens: int, eos_ids: Collection[int]
) -> tuple[list[Ids], Tensor]:
    """Each prompt's greedy completion, and the log-probability of each of `words` as its answer (B, words)."""
    greedy = [_greedy(model, prompt, max_new_tokens, eos_ids) for prompt in prompts]
    scores = [[_score(model, prompt, word) for word in words] for prompt in prompts]
    return greedy, torch.tensor(scores)


def _greedy(model: nn.Module, prompt: Ids, max_new_tokens: int, eos_ids: Collection[int]) -> Ids:
    tokens: Ids = ()
    fed, cache = prompt, None
    while len(tokens) < max_new_tokens and not (tokens and tokens[-1] in eos_ids):
        out = model(input_ids=_row(model, fed), past_key_values=cache, use_cache=True, logits_to_keep=1)
        fed, cache = (int(out.logits[0, -1].argmax()),), out.past_key_values
        tokens += fed
    return tokens


def _score(model: nn.Module, prompt: Ids, word: Ids) -> float:
    out = model(input_ids=_row(model, prompt + word), use_cache=False, logits_to_keep=len(word) + 1)
    logp = out.logits[0, :-1].float().log_softmax(-1)
    return float(logp[range(len(word)), list(word)].sum())


def _row(model: nn.Module, tokens: Ids) -> Tensor:
    return torch.tensor([tokens], device=next(model.parameters()).device)
