# SPDX-License-Identifier: Apache-2.0
"""Sampling G completions of each prompt, every distinct prefix computed once.

The prompts of a batch are one tree (see `shared_prompt`), and so are the completions that grow out of it: a leaf is a
distinct prefix with a count, how many of the G samples share it. Each step draws `count` tokens from the leaf's
distribution; equal draws stay one leaf. Given the prefix, the draws are independent and identically distributed, so
the G completions have the distribution that G separate rows would have. The cache of keys and values is the tree
itself, one row that only grows: nothing is copied per sample, and a finished prefix costs nothing more.

A leaf attends over the whole row under a mask, so this pays while completions are short; see `worth_a_tree`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from trainer.shared_prompt import Ids, PrefixTree, causal_lm

MAX_GROWTH = 1024
"""Nodes that the completions of one prompt may add before separate rows are cheaper."""


@dataclass(frozen=True)
class Leaf:
    """A distinct prefix under way: its prompt, its tokens so far, its node, how many samples share it."""

    prompt: int
    tokens: Ids
    node: int
    count: int


def worth_a_tree(generations: int, max_new_tokens: int) -> bool:
    """Whether sampling in a tree is the cheaper way for these shapes."""
    return generations * max_new_tokens <= MAX_GROWTH


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
    """`generations` completions for each prompt, each ended by an EOS token or cut at `max_new_tokens`.

    Temperature 0 takes the likeliest token each time. Prompts are taken together while their tree stays within
    `max_nodes`.
    """
    done: list[list[Ids]] = []
    for first, last in _spans(prompts, max_nodes):
        done += _sample_tree(
            causal_lm(model), prompts[first:last], generations, max_new_tokens, eos_ids, temperature, generator
        )
    return done


def _sample_tree(
    lm: nn.Module,
    prompts: Sequence[Ids],
    generations: int,
    max_new_tokens: int,
    eos_ids: Collection[int],
    temperature: float,
    generator: torch.Generator | None,
) -> list[list[Ids]]:
    tree, cache = PrefixTree(), DynamicCache()
    ends = [tree.add(prompt)[-1] for prompt in prompts]
    seen = tree.visible().numpy()
    hidden = _extend(lm, tree, 0, seen, cache)[ends]
    leaves = [Leaf(number, (), node, generations) for number, node in enumerate(ends)]
    done: list[list[Ids]] = [[] for _ in prompts]
    while True:
        drawn = draw(lm.get_submodule("lm_head")(hidden).float(), [x.count for x in leaves], temperature, generator)
        grown: list[Leaf] = []
        known = len(tree)
        for leaf, tokens in zip(leaves, drawn, strict=True):
            for token, count in sorted(Counter(tokens).items()):
                longer = (*leaf.tokens, token)
                if token in eos_ids or len(longer) == max_new_tokens:
                    done[leaf.prompt].extend([longer] * count)
                else:
                    grown.append(Leaf(leaf.prompt, longer, tree.grow(leaf.node, token), count))
        if not grown:
            return done
        seen = _grown(seen, tree.parents[known:])
        new = _extend(lm, tree, known, seen[known:], cache)
        hidden, leaves = new[[leaf.node - known for leaf in grown]], grown


def draw(logits: Tensor, counts: Sequence[int], temperature: float, generator: torch.Generator | None) -> list[Ids]:
    """For each row of `logits` (B, V), `count` tokens; temperature 0 takes the likeliest token each time."""
    if temperature == 0:
        return [(int(token),) * count for token, count in zip(logits.argmax(-1).tolist(), counts, strict=True)]
    probabilities = (logits / temperature).softmax(-1)
    drawn = torch.multinomial(probabilities, max(counts), replacement=True, generator=generator).tolist()
    return [tuple(row[:count]) for row, count in zip(drawn, counts, strict=True)]


def _extend(lm: nn.Module, tree: PrefixTree, first: int, seen: np.ndarray, cache: DynamicCache) -> Tensor:
    """Runs the nodes from `first` on, over a cache that holds those before; their hidden states (nodes, H)."""
    device = next(lm.parameters()).device
    out = lm.get_submodule(str(lm.base_model_prefix))(
        input_ids=torch.tensor([tree.tokens[first:]], device=device),
        position_ids=torch.tensor([tree.depths[first:]], device=device),
        attention_mask=torch.from_numpy(seen)[None, None].to(device),
        past_key_values=cache,
        use_cache=True,
    )
    hidden: Tensor = out.last_hidden_state[0]
    return hidden


def _grown(seen: np.ndarray, parents: Sequence[int]) -> np.ndarray:
    """The visibility of a tree to which nodes with these parents were added: what the parent sees, and itself."""
    old, new = len(seen), len(parents)
    larger = np.zeros((old + new, old + new), dtype=bool)
    larger[:old, :old] = seen
    larger[old:] = larger[list(parents)]
    larger[range(old, old + new), range(old, old + new)] = True
    return larger


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
