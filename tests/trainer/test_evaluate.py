# SPDX-License-Identifier: Apache-2.0
import torch

from tests.trainer import tiny
from trainer.dataset import Row
from trainer.evaluate import MAX_LABELS, Answers, answer, encode_prompt, figures, largest_class
from trainer.shared_prompt import Ids, supports_tree

LABELS = ["maybe", "no", "yes"]


def rows() -> list[Row]:
    texts = ["good thing", "bad thing", "it is so bad", "a very good thing", "so so"]
    references = ["yes", "no", "no", "yes", "maybe"]
    return [
        Row(f"inv_{n}", [{"role": "user", "content": text}], reference, f"g{n}")
        for n, (text, reference) in enumerate(zip(texts, references, strict=True))
    ]


def likeliest(model: torch.nn.Module, prompt: Ids, labels: list[str]) -> str:
    """The label whose words and the end after them are likeliest."""

    def score(label: str) -> float:
        tokens = [*map(tiny.WORDS.index, label.split()), 0]
        with torch.no_grad():
            logp = model(input_ids=torch.tensor([[*prompt, *tokens]])).logits[0].log_softmax(-1)
        return sum(float(logp[len(prompt) + place - 1, token]) for place, token in enumerate(tokens))

    return max(labels, key=score)


def test_answers_are_those_of_one_row_at_a_time() -> None:
    model, tokenizer = tiny.llama(), tiny.tokenizer()
    found = answer(model, tokenizer, rows(), LABELS, max_new_tokens=3)
    for row, greedy, constrained in zip(rows(), found.greedy, found.constrained or [], strict=True):
        prompt = encode_prompt(tokenizer, row.messages)
        tokens = list(prompt)
        with torch.no_grad():
            while len(tokens) < len(prompt) + 3:
                tokens.append(int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
                if tokens[-1] == tokenizer.eos_token_id:
                    break
        assert greedy == tokenizer.decode(tokens[len(prompt) :], skip_special_tokens=True).strip()
        assert constrained == likeliest(model, prompt, LABELS)


def test_a_label_that_begins_another_does_not_always_win() -> None:
    labels, model, tokenizer = ["a", "a bad"], tiny.llama(5), tiny.tokenizer()
    found = answer(model, tokenizer, rows(), labels, max_new_tokens=3).constrained
    assert found == [likeliest(model, encode_prompt(tokenizer, row.messages), labels) for row in rows()]
    assert set(found) == {"a", "a bad"}


def test_a_model_that_no_tree_computes_gives_the_answers_of_one_that_it_does() -> None:
    tree, other = tiny.llama(), tiny.llama()
    other.set_attn_implementation("eager")
    assert supports_tree(tree)
    assert not supports_tree(other)
    assert answer(tree, tiny.tokenizer(), rows(), LABELS, 3) == answer(other, tiny.tokenizer(), rows(), LABELS, 3)


def test_no_model_is_held_to_hundreds_of_references() -> None:
    labels = [f"text {number}" for number in range(MAX_LABELS + 1)]
    model, tokenizer = tiny.llama(), tiny.tokenizer()
    found = answer(model, tokenizer, rows(), labels, 2)
    assert found.constrained is None
    assert found.greedy == answer(model, tokenizer, rows(), LABELS, 2).greedy
    assert figures(found, rows(), 0.95)["constrained"] is None


def test_the_model_goes_back_to_training_as_it_was() -> None:
    model = tiny.llama().train()
    answer(model, tiny.tokenizer(), rows()[:1], LABELS, max_new_tokens=1)
    assert model.training


def test_only_the_reference_word_for_word_counts_as_right() -> None:
    found = figures(Answers(["yes", "No", "no", "yes.", "maybe"], ["yes"] * 5), rows(), 0.95)
    assert found["exact"]["hits"] == 3
    assert found["constrained"]["hits"] == 2
    assert found["exact"]["low"] < 0.6 < found["exact"]["high"]
    assert {label: (share["hits"], share["total"]) for label, share in found["recall"].items()} == {
        "maybe": (1, 1),
        "no": (1, 2),
        "yes": (1, 2),
    }


def test_the_largest_class_is_the_commonest_label() -> None:
    found = largest_class([*rows(), Row("x", [], "yes", "g")], 0.95)
    assert (found["label"], found["hits"], found["total"]) == ("yes", 3, 6)
