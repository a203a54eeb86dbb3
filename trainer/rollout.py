# SPDX-License-Identifier: Apache-2.0
"""Sampling G completions of each prompt, every distinct prefix computed once.

The prompts of a batch are prefilled as trees (see `shared_prompt`). From then on a row of the decoding batch is a
distinct prefix with a count: how many of the G samples share it. Each step draws `count` tokens from the row's
distribution; equal draws stay one row. Given the prefix, the draws are independent and identically distributed, so
the G completions have the distribution that G separate rows would have. Finished prefixes leave the batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from trainer.shared_prompt import Ids, PrefixTree, causal_lm


@dataclass(frozen=True)
class Row:
    """A distinct prefix under way: the prompt it belongs to, its tokens so far, how many samples share it."""

    prompt: int
    tokens: Ids
    count: int


def prefill(model: nn.Module, prompts: Sequence[Ids], max_nodes: int) -> tuple[DynamicCache, Tensor, Tensor]:
    """The prompts' cache, left-padded; their mask (B, P); and the logits after each last token (B, V), float32."""
    lm = causal_lm(model)
    device = next(lm.parameters()).device
    width = max(map(len, prompts))
    layers: list[tuple[list[Tensor], list[Tensor]]] = []
    hidden: list[Tensor] = []
    mask = torch.zeros(len(prompts), width, dtype=torch.long, device=device)
    for first, last in _spans(prompts, max_nodes):
        tree = PrefixTree()
        paths = [tree.add(prompt) for prompt in prompts[first:last]]
        cache = DynamicCache()
        backbone = lm.get_submodule(str(lm.base_model_prefix))
        out = backbone(**tree.model_inputs(device), past_key_values=cache, use_cache=True).last_hidden_state[0]
        gather = torch.tensor([[0] * (width - len(path)) + path for path in paths], device=device)
        for row, path in enumerate(paths):
            mask[first + row, width - len(path) :] = 1
        hidden.append(out[gather[:, -1]])
        for number, layer in enumerate(cache.layers):
            if number == len(layers):
                layers.append(([], []))
            for parts, states in zip(layers[number], (layer.keys, layer.values), strict=True):
                parts.append(states[0][:, gather].transpose(0, 1))  # (heads, B, P, d) -> (B, heads, P, d)
    head = lm.get_submodule("lm_head")
    logits = head(torch.cat(hidden)).float()
    return DynamicCache([(torch.cat(keys), torch.cat(values)) for keys, values in layers]), mask, logits


def _spans(prompts: Sequence[Ids], max_nodes: int) -> list[tuple[int, int]]:
    """Consecutive prompts whose tree stays within `max_nodes` (one prompt alone may exceed it)."""
    spans, first, tree = [], 0, PrefixTree()
    for number, prompt in enumerate(prompts):
        tree.add(prompt)
        if len(tree) > max_nodes and number > first:
            spans.append((first, number))
            first, tree = number, PrefixTree()
            tree.add(prompt)
    return [*spans, (first, len(prompts))]


def draw(logits: Tensor, counts: Sequence[int], temperature: float, generator: torch.Generator | None) -> list[Ids]:
    """For each row of `logits` (B, V), `count` tokens; temperature 0 takes the likeliest token each time."""
    if temperature == 0:
        return [(int(token),) * count for token, count in zip(logits.argmax(-1).tolist(), counts, strict=True)]
    probabilities = (logits / temperature).softmax(-1)
    drawn = torch.multinomial(probabilities, max(counts), replacement=True, generator=generator).tolist()
    return [tuple(row[:count]) for row, count in zip(drawn, counts, strict=True)]


@torch.no_grad()
def sample(
    model: nn.Module,
    prompts: Sequence[Ids],
    *,
    generations: int,
    max_new_tokens: int,
    eos_ids: Collection[int],
    temperature: float = 1.0,
    max_nodes: int = 512,
    generator: torch.Generator | None = None,
) -> list[list[Ids]]:
    """`generations` completions for each prompt, each ended by an EOS token or cut at `max_new_tokens`."""
    lm = causal_lm(model)
    cache, mask, logits = prefill(model, prompts, max_nodes)
    rows = [Row(number, (), generations) for number in range(len(prompts))]
    done: list[list[Ids]] = [[] for _ in prompts]
    while True:
        parents: list[int] = []
        grown: list[Row] = []
        for parent, (row, drawn) in enumerate(
            zip(rows, draw(logits, [row.count for row in rows], temperature, generator), strict=True)
        ):
            for token, count in sorted(Counter(drawn).items()):
                tokens = (*row.tokens, token)
                if token in eos_ids or len(tokens) == max_new_tokens:
                    done[row.prompt].extend([tokens] * count)
                else:
                    grown.append(Row(row.prompt, tokens, count))
                    parents.append(parent)
        if not grown:
            return done
        chosen = torch.tensor(parents, device=mask.device)
        cache.batch_select_indices(chosen)
        mask = torch.cat([mask[chosen], mask.new_ones(len(grown), 1)], dim=1)
        last = torch.tensor([[row.tokens[-1]] for row in grown], device=mask.device)
        positions = mask.sum(1, keepdim=True) - 1
        logits = (
            lm(input_ids=last, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True)
            .logits[:, -1]
            .float()
        )
        rows = grown
