# SPDX-License-Identifier: Apache-2.0
import torch

from tests.trainer import tiny
from trainer.dataset import Row
from trainer.evaluate import Answers, answer, encode_prompt, figures, largest_class

LABELS = ["maybe", "no", "yes"]


def rows() -> list[Row]:
    texts = ["good thing", "bad thing", "it is so bad", "a very good thing", "so so"]
    references = ["yes", "no", "no", "yes", "maybe"]
    return [
        Row(f"inv_{n}", [{"role": "user", "content": text}], reference, f"g{n}")
        for n, (text, reference) in enumerate(zip(texts, references, strict=True))
    ]


def test_answers_are_those_of_one_row_at_a_time() -> None:
    model, tokenizer = tiny.llama(), tiny.tokenizer()
    found = answer(model, tokenizer, rows(), LABELS, max_new_tokens=3)
    for row, greedy, constrained in zip(rows(), found.greedy, found.constrained, strict=True):
        prompt = encode_prompt(tokenizer, row.messages)
        tokens = list(prompt)
        with torch.no_grad():
            while len(tokens) < len(prompt) + 3:
                tokens.append(int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
                if tokens[-1] == tokenizer.eos_token_id:
                    break
            logits = model(input_ids=torch.tensor([prompt])).logits[0, -1]
        assert greedy == tokenizer.decode(tokens[len(prompt) :], skip_special_tokens=True).strip()
        assert constrained == max(LABELS, key=lambda label: float(logits[tiny.WORDS.index(label)]))


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
