# SPDX-License-Identifier: Apache-2.0
from collections import Counter

import torch

from tests.trainer.tiny import groups, llama, with_adapter
from trainer.rollout import answer, draw, sample
from trainer.shared_prompt import Ids


def greedy(model: torch.nn.Module, prompt: Ids, eos: set[int], longest: int) -> Ids:
    tokens = list(prompt)
    while len(tokens) - len(prompt) < longest:
        tokens.append(int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
        if tokens[-1] in eos:
            break
    return tuple(tokens[len(prompt) :])


def test_greedy_answers_are_those_of_one_prompt_at_a_time() -> None:
    model = with_adapter(llama(vocabulary=97))
    prompts = sorted(set(groups(0)[0]))
    eos = {greedy(model, prompts[0], set(), 3)[-1]}
    for max_nodes in (5, 512):
        found = sample(model, prompts, generations=2, max_new_tokens=6, eos_ids=eos, temperature=0, max_nodes=max_nodes)
        assert found == [[greedy(model, prompt, eos, 6)] * 2 for prompt in prompts]


def test_a_prompt_that_stands_twice_is_answered_twice() -> None:
    model = llama(vocabulary=97)
    found = sample(model, [(5, 6), (7,), (5, 6)], generations=3, max_new_tokens=4, eos_ids={1}, temperature=0)
    assert found[0] == found[2]
    assert [len(group) for group in found] == [3, 3, 3]


def test_samples_follow_the_models_distribution() -> None:
    model = llama(vocabulary=5)
    torch.manual_seed(0)
    (group,) = sample(model, [(1, 2)], generations=20_000, max_new_tokens=2, eos_ids={0}, temperature=1.0)
    counts = Counter(group)
    with torch.no_grad():
        first = model(input_ids=torch.tensor([[1, 2]])).logits[0, -1].softmax(-1)
        second = model(input_ids=torch.tensor([[1, 2, 3]])).logits[0, -1].softmax(-1)
    assert abs(counts[(0,)] / 20_000 - float(first[0])) < 0.02
    assert abs(counts[(3, 4)] / 20_000 - float(first[3] * second[4])) < 0.02


def test_every_completion_ends_at_its_first_eos_or_at_the_limit() -> None:
    torch.manual_seed(0)
    (group,) = sample(llama(vocabulary=5), [(1, 2)], generations=200, max_new_tokens=4, eos_ids={0, 3})
    for completion in group:
        assert not set(completion[:-1]) & {0, 3}
        assert completion[-1] in {0, 3} or len(completion) == 4


def test_a_seed_decides_the_draw() -> None:
    logits = torch.randn(3, 11, generator=torch.Generator().manual_seed(0))
    first, second = (draw(logits, [4, 1, 3], 0.9, torch.Generator().manual_seed(5)) for _ in range(2))
    assert first == second
    assert [len(tokens) for tokens in first] == [4, 1, 3]


def test_words_of_any_length_are_scored_beside_the_greedy_answer() -> None:
    model = llama(vocabulary=97)
    prompts = sorted(set(groups(1)[0]))
    words = [(5,), (6, 7), (6, 8, 9)]
    for max_nodes in (5, 512):
        greedily, scores = answer(model, prompts, words, max_new_tokens=4, eos_ids={1}, max_nodes=max_nodes)
        assert greedily == [greedy(model, prompt, {1}, 4) for prompt in prompts]
        with torch.no_grad():
            for row, prompt in enumerate(prompts):
                for column, word in enumerate(words):
                    logp = model(input_ids=torch.tensor([prompt + word])).logits[0].log_softmax(-1)
                    expected = sum(float(logp[len(prompt) + i - 1, token]) for i, token in enumerate(word))
                    assert abs(float(scores[row, column]) - expected) < 1e-4
