# SPDX-License-Identifier: Apache-2.0
"""Every distinct prefix of a batch is computed once, forward and backward.

GRPO scores G completions of each prompt. The textbook computation runs prompt + completion G times; nearly all of
that work is the same prompt again. Here the sequences of a batch are folded into a tree of tokens (a trie): one
node per distinct prefix, so a prompt is one path however many completions hang off it, a system message common to
all prompts is one path for the whole batch, and a completion that was sampled k times is one path too. The nodes
are run through the model as a single row, with depths as position ids and a mask in which a node sees exactly its
ancestors. Attention then computes, for every node, what it would have computed in its own sequence, so
log-probabilities and gradients are those of the plain computation up to rounding.

The idea of packing completions behind one prompt with a block mask is that of prefix sharing in tree attention
(SpecInfer, arXiv 2305.09781, section 4.2); the trie over whole sequences is the general form of it. A dense mask
costs N^2 in the number of nodes, so rows are bounded (`max_nodes`) and `worth_sharing` compares both costs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Ids = tuple[int, ...]

LOGIT_ROWS = 256
"""Rows of the LM head held at a time; 256 x 50,000 floats are 50 MB."""

DENSE_MASK_FACTOR = 3.0
"""A masked N x N attention costs about this many times its multiplications, against a causal kernel, on the CPU."""


@dataclass
class PrefixTree:
    """A trie of token sequences; nodes are numbered so that a parent comes before its children.

    `tokens`, `parents` (-1 at the top) and `depths` have one entry per node.
    """

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    _children: dict[tuple[int, int], int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)

    def add(self, sequence: Sequence[int]) -> list[int]:
        """The node of each token of `sequence`, from the top."""
        node, path = -1, []
        for token in sequence:
            node = self.grow(node, token)
            path.append(node)
        return path

    def grow(self, node: int, token: int) -> int:
        """The child of `node` (-1 is above the top) with this token, made where there is none."""
        child = self._children.get((node, token))
        if child is None:
            child = len(self.tokens)
            self._children[node, token] = child
            self.tokens.append(token)
            self.parents.append(node)
            self.depths.append(0 if node < 0 else self.depths[node] + 1)
        return child

    def visible(self) -> Tensor:
        """Bool (N, N): row i is true at i and at every ancestor of i."""
        seen = np.zeros((len(self), len(self)), dtype=bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                seen[node] = seen[parent]
            seen[node, node] = True
        return torch.from_numpy(seen)

    def model_inputs(self, device: torch.device) -> dict[str, Tensor]:
        """`input_ids` (1, N), `position_ids` (1, N) and the 4-dimensional `attention_mask` (1, 1, N, N)."""
        return {
            "input_ids": torch.tensor([self.tokens], device=device),
            "position_ids": torch.tensor([self.depths], device=device),
            "attention_mask": self.visible()[None, None].to(device),
        }


def causal_lm(model: nn.Module) -> nn.Module:
    """The causal language model inside a PEFT wrapper (adapters stay active: they are layers of it), or the model."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    assert isinstance(inner, nn.Module)
    return inner


def supports_tree(model: nn.Module) -> bool:
    """Whether the tree computes this model exactly: SDPA attention over the whole context and an unscaled LM head."""
    config = causal_lm(model).config.get_text_config()
    scaled = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")
    windowed = getattr(config, "sliding_window", None) or set(getattr(config, "layer_types", None) or []) - {
        "full_attention"
    }
    return (
        config._attn_implementation == "sdpa"
        and not windowed
        and not any(getattr(config, name, None) is not None for name in scaled)
        and hasattr(causal_lm(model), "lm_head")
    )


@dataclass(frozen=True)
class _Pack:
    """One row: its tree, and for each sequence in it (by number) the node of every token but the last."""

    tree: PrefixTree
    sequences: list[tuple[int, list[int]]]


def _packs(prompts: Sequence[Ids], completions: Sequence[Ids], max_nodes: int) -> Iterator[_Pack]:
    """Rows of at most `max_nodes` nodes (one prompt's own tree may exceed it: a group is never split)."""
    groups: dict[Ids, list[int]] = {}
    for number, prompt in enumerate(prompts):
        if completions[number]:
            groups.setdefault(prompt, []).append(number)
    tree = PrefixTree()
    held: list[tuple[int, list[int]]] = []
    for prompt, members in sorted(groups.items()):
        width = len(prompt) + len({completions[m][:i] for m in members for i in range(1, len(completions[m]))})
        if held and len(tree) + width > max_nodes:
            yield _Pack(tree, held)
            tree, held = PrefixTree(), []
        held.extend((m, tree.add((*prompt, *completions[m][:-1]))) for m in members)
    if held:
        yield _Pack(tree, held)


def worth_sharing(
    prompts: Sequence[Ids], completions: Sequence[Ids], hidden: int, intermediate: int, max_nodes: int
) -> bool:
    """Whether the packed rows cost less than one padded row per sequence, by counted multiplications per layer."""
    linear = 2.0 * (4 * hidden * hidden + 3 * hidden * intermediate)
    attention = 4.0 * hidden
    packed = sum(
        len(pack.tree) * (linear + DENSE_MASK_FACTOR * attention * len(pack.tree))
        for pack in _packs(prompts, completions, max_nodes)
    )
    longest = max(map(len, prompts)) + max(map(len, completions))
    return packed <= len(prompts) * longest * (linear + attention * longest)


def _score_rows(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor, tokens: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    logits = nn.functional.linear(hidden, weight, bias).float() / temperature
    logp = logits.log_softmax(-1)
    entropy = -(logp.exp() * logp).sum(-1)
    return logp[rows, tokens], entropy


def _edge_scores(
    head: nn.Linear, hidden: Tensor, edges: list[tuple[int, int]], temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-probability of each edge (node, next token), and the entropy at its node; both (E,), float32."""
    nodes = sorted({node for node, _ in edges})
    row_of = {node: row for row, node in enumerate(nodes)}
    order = sorted(range(len(edges)), key=lambda e: row_of[edges[e][0]])
    logps, entropies = [], []
    start = 0
    for first in range(0, len(nodes), LOGIT_ROWS):
        stop = start
        while stop < len(order) and row_of[edges[order[stop]][0]] < first + LOGIT_ROWS:
            stop += 1
        rows = torch.tensor([row_of[edges[e][0]] - first for e in order[start:stop]], device=hidden.device)
        tokens = torch.tensor([edges[e][1] for e in order[start:stop]], device=hidden.device)
        part = hidden[torch.tensor(nodes[first : first + LOGIT_ROWS], device=hidden.device)]
        logp, entropy = checkpoint(
            _score_rows, part, head.weight, head.bias, rows, tokens, temperature, use_reentrant=False
        )
        logps.append(logp)
        entropies.append(entropy[rows])
        start = stop
    back = torch.empty(len(order), dtype=torch.long)
    back[torch.tensor(order)] = torch.arange(len(order))
    back = back.to(hidden.device)
    return torch.cat(logps)[back], torch.cat(entropies)[back]


def completion_logprobs(
    model: nn.Module,
    prompts: Sequence[Ids],
    completions: Sequence[Ids],
    *,
    temperature: float = 1.0,
    max_nodes: int = 512,
) -> tuple[Tensor, Tensor]:
    """Log-probability of every completion token and the entropy where it was drawn.

    `prompts` and `completions` are token ids, one entry per sequence, without padding; equal prompts are computed
    once. Returns two float32 tensors (B, T) with T the longest completion, zero behind each end. A prompt must not be
    empty: the first completion token has nothing to be predicted from.
    """
    if any(not prompt for prompt in prompts):
        raise ValueError("a prompt has no tokens: its first completion token cannot be scored")
    lm = causal_lm(model)
    device = next(lm.parameters()).device
    width = max((len(completion) for completion in completions), default=0)
    index = torch.zeros(len(prompts), width, dtype=torch.long)  # 0 is the zero put before the scores
    logps, entropies = [torch.zeros(1, device=device)], [torch.zeros(1, device=device)]
    offset = 1
    for pack in _packs(prompts, completions, max_nodes):
        backbone = lm.get_submodule(str(lm.base_model_prefix))
        hidden = backbone(**pack.tree.model_inputs(device), use_cache=False).last_hidden_state[0]
        number_of: dict[tuple[int, int], int] = {}
        for sequence, path in pack.sequences:
            completion = completions[sequence]
            for t, node in enumerate(path[len(prompts[sequence]) - 1 :]):
                index[sequence, t] = offset + number_of.setdefault((node, completion[t]), len(number_of))
        head = lm.get_submodule("lm_head")
        assert isinstance(head, nn.Linear)
        logp, entropy = _edge_scores(head, hidden, list(number_of), temperature)
        logps.append(logp)
        entropies.append(entropy)
        offset += len(number_of)
    index = index.to(device)
    return torch.cat(logps)[index], torch.cat(entropies)[index]
