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
        grove = Grove(causal_lm(model), prompts[first:last])
        done += _sample(grove, generations, max_new_tokens, eos_ids, temperature, generator)
    return done


@torch.no_grad()
def answer(
    model: nn.Module,
    prompts: Sequence[Ids],
    words: Sequence[Ids],
    *,
    max_new_tokens: int,
    eos_ids: Collection[int],
    max_nodes: int = 512,
) -> tuple[list[Ids], Tensor]:
    """Each prompt's greedy completion, and the log-probability of each of `words` as its answer (B, words)."""
    greedy: list[Ids] = []
    scores: list[Tensor] = []
    for first, last in _spans(prompts, max_nodes):
        grove = Grove(causal_lm(model), prompts[first:last])
        scores.append(_score(grove, words))
        greedy += [group[0] for group in _sample(grove, 1, max_new_tokens, eos_ids, 0.0, None)]
    return greedy, torch.cat(scores)


class Grove:
    """Prompts as one tree that has been run through the model, and that grows."""

    def __init__(self, lm: nn.Module, prompts: Sequence[Ids]) -> None:
        self._lm = lm
        self._tree, self._cache = PrefixTree(), DynamicCache()
        self.ends = [self._tree.add(prompt)[-1] for prompt in prompts]
        """The last node of each prompt."""
        self._seen = self._tree.visible().numpy()
        self._hidden = self._run(0)

    def logits(self, nodes: Sequence[int]) -> Tensor:
        """What follows each node: (nodes, V), float32."""
        logits: Tensor = self._lm.get_submodule("lm_head")(self._hidden[list(nodes)])
        return logits.float()

    def grow(self, children: Sequence[tuple[int, int]]) -> list[int]:
        """Nodes for these (node, token), run through the model where they are new."""
        known = len(self._tree)
        nodes = [self._tree.grow(node, token) for node, token in children]
        if len(self._tree) > known:
            self._seen = _grown(self._seen, self._tree.parents[known:])
            self._hidden = torch.cat([self._hidden, self._run(known)])
        return nodes

    def _run(self, first: int) -> Tensor:
        """The nodes from `first` on, over a cache that holds those before; their hidden states (nodes, H)."""
        device = next(self._lm.parameters()).device
        out = self._lm.get_submodule(str(self._lm.base_model_prefix))(
            input_ids=torch.tensor([self._tree.tokens[first:]], device=device),
            position_ids=torch.tensor([self._tree.depths[first:]], device=device),
            attention_mask=torch.from_numpy(self._seen[first:])[None, None].to(device),
            past_key_values=self._cache,
            use_cache=True,
        )
        hidden: Tensor = out.last_hidden_state[0]
        return hidden


def _sample(
    grove: Grove,
    generations: int,
    max_new_tokens: int,
    eos_ids: Collection[int],
    temperature: float,
    generator: torch.Generator | None,
) -> list[list[Ids]]:
    leaves = [Leaf(number, (), node, generations) for number, node in enumerate(grove.ends)]
    done: list[list[Ids]] = [[] for _ in leaves]
    while leaves:
        logits = grove.logits([leaf.node for leaf in leaves])
        drawn = draw(logits, [leaf.count for leaf in leaves], temperature, generator)
        grown: list[tuple[Leaf, int, int]] = []
        for leaf, tokens in zip(leaves, drawn, strict=True):
            for token, count in sorted(Counter(tokens).items()):
                longer = (*leaf.tokens, token)
                if token in eos_ids or len(longer) == max_new_tokens:
                    done[leaf.prompt].extend([longer] * count)
                else:
                    grown.append((leaf, token, count))
        nodes = grove.grow([(leaf.node, token) for leaf, token, _ in grown])
        leaves = [
            Leaf(leaf.prompt, (*leaf.tokens, token), node, count)
            for (leaf, token, count), node in zip(grown, nodes, strict=True)
        ]
    return done


def _score(grove: Grove, words: Sequence[Ids]) -> Tensor:
    """The log-probability of each word after each prompt (prompts, words)."""
    scores = torch.zeros(len(grove.ends), len(words))
    at = {(prompt, word): node for prompt, node in enumerate(grove.ends) for word in range(len(words))}
    for depth in range(max(map(len, words), default=0)):
        places = [place for place in at if len(words[place[1]]) > depth]
        logp = grove.logits([at[place] for place in places]).log_softmax(-1)
        for row, (prompt, word) in enumerate(places):
            scores[prompt, word] += float(logp[row, words[word][depth]])
        longer = [place for place in places if len(words[place[1]]) > depth + 1]
        nodes = grove.grow([(at[place], words[place[1]][depth]) for place in longer])
        at.update(zip(longer, nodes, strict=True))
    return scores


def draw(logits: Tensor, counts: Sequence[int], temperature: float, generator: torch.Generator | None) -> list[Ids]:
    """For each row of `logits` (B, V), `count` tokens; temperature 0 takes the likeliest token each time."""
    if temperature == 0:
        return [(int(token),) * count for token, count in zip(logits.argmax(-1).tolist(), counts, strict=True)]
    probabilities = (logits / temperature).softmax(-1)
    drawn = torch.multinomial(probabilities, max(counts), replacement=True, generator=generator).tolist()
    return [tuple(row[:count]) for row, count in zip(drawn, counts, strict=True)]


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
