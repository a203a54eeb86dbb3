# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.trainer.tiny import groups, llama, with_adapter
from trainer.shared_prompt import Ids, PrefixTree, completion_logprobs, supports_tree, worth_sharing

Scores = tuple[Tensor, Tensor]


def plain(model: nn.Module, prompts: list[Ids], completions: list[Ids], temperature: float) -> Scores:
    """One row per sequence, no padding, no sharing."""
    width = max(map(len, completions))
    logps, entropies = [], []
    for prompt, completion in zip(prompts, completions, strict=True):
        logits = model(input_ids=torch.tensor([prompt + completion])).logits[0] / temperature
        logp = logits.log_softmax(-1)[len(prompt) - 1 : -1]
        entropy = -(logp.exp() * logp).sum(-1)
        pad = (0, width - len(completion))
        logps.append(nn.functional.pad(logp[range(len(completion)), list(completion)], pad))
        entropies.append(nn.functional.pad(entropy, pad))
    return torch.stack(logps), torch.stack(entropies)


def with_gradient(model: nn.Module, scores: Callable[[], Scores]) -> tuple[Tensor, Tensor, Tensor]:
    model.zero_grad()
    logps, entropies = scores()
    weights = torch.randn(logps.shape, generator=torch.Generator().manual_seed(1))
    ((logps * weights).sum() + 0.3 * entropies.sum()).backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return logps.detach(), entropies.detach(), gradient


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("max_nodes", [10, 60, 512], ids=["a row per group", "some rows", "one row"])
@pytest.mark.parametrize("seed", range(3))
def test_logprobs_entropies_and_lora_gradients_are_those_of_the_plain_computation(seed: int, max_nodes: int) -> None:
    model = with_adapter(llama(seed, vocabulary=97), seed)
    prompts, completions = groups(seed)
    shared = with_gradient(
        model, lambda: completion_logprobs(model, prompts, completions, temperature=0.7, max_nodes=max_nodes)
    )
    expected = with_gradient(model, lambda: plain(model, prompts, completions, 0.7))
    for ours, theirs in zip(shared, expected, strict=True):
        assert distance(ours, theirs) < 1e-4


def test_a_completion_without_tokens_scores_nothing() -> None:
    model = llama(vocabulary=97)
    logps, entropies = completion_logprobs(model, [(1, 2), (1, 2)], [(), (3, 4)])
    assert logps.shape == (2, 2)
    assert not logps[0].any()
    assert not entropies[0].any()
    assert logps[1].all()


def test_a_prompt_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="no tokens"):
        completion_logprobs(llama(), [()], [(1,)])


def test_a_distinct_prefix_is_one_node() -> None:
    tree = PrefixTree()
    first, second = tree.add((7, 8, 9)), tree.add((7, 8, 5, 6))
    assert first[:2] == second[:2]
    assert len(tree) == 5
    assert tree.depths == [0, 1, 2, 2, 3]


def test_a_node_sees_itself_and_its_ancestors_only() -> None:
    tree = PrefixTree()
    tree.add((7, 8))
    tree.add((7, 9, 4))
    visible = [[column for column, seen in enumerate(row) if seen] for row in tree.visible().tolist()]
    assert visible == [[0], [0, 1], [0, 2], [0, 2, 3]]


def test_many_short_answers_to_one_prompt_are_worth_sharing_and_one_long_answer_each_is_not() -> None:
    short = worth_sharing([tuple(range(80))] * 8, [(n, 1, 2) for n in range(8)], 576, 1536, 512)
    long = worth_sharing(
        [tuple(range(16))] * 8, [tuple(range(n, n + 512)) for n in range(0, 8 * 512, 512)], 576, 1536, 512
    )
    assert short
    assert not long


def test_a_model_with_sliding_window_or_other_attention_is_left_to_the_plain_path() -> None:
    model = llama()
    assert supports_tree(model)
    assert supports_tree(with_adapter(model))
    model.config.sliding_window = 16
    assert not supports_tree(model)
    model.config.sliding_window = None
    model.config._attn_implementation = "eager"
    assert not supports_tree(model)
