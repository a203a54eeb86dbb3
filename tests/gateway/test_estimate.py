# SPDX-License-Identifier: Apache-2.0
from typing import Any

import orjson
import pytest

from contract.prices import PriceBook, PriceVersion
from contract.settings import GatewaySettings
from gateway.asked import Asked
from gateway.completions import parse_completion
from gateway.embeddings import parse_embeddings
from gateway.estimate import PER_MESSAGE, PER_PROMPT, most_nanos, most_tokens
from gateway.fields import parse_chat
from gateway.quick import usual_chat
from gateway.responses import parse_response
from gateway.routes import Target

BOUNDS = GatewaySettings()
LONGEST = BOUNDS.max_completion_tokens
ASK = {"model": "m", "messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "äöü€"}]}


def chat(**fields: Any) -> Asked:
    usual, other = usual_chat(orjson.dumps({**ASK, **fields}), BOUNDS), parse_chat({**ASK, **fields}, BOUNDS)
    assert usual is not None
    assert most_tokens(usual, LONGEST, None) == most_tokens(other, LONGEST, None)
    return usual


@pytest.mark.parametrize(
    ("fields", "written"),
    [
        ({}, LONGEST), ({"max_tokens": 5}, 5), ({"max_completion_tokens": 7}, 7),
        ({"max_tokens": 5, "max_completion_tokens": 7}, 7), ({"max_tokens": 9, "max_completion_tokens": 7, "n": 3}, 27),
    ],
)  # fmt: skip
def test_the_longest_answer_is_bounded_in_either_spelling_and_counts_n_times(fields: Any, written: int) -> None:
    assert most_tokens(chat(**fields), LONGEST, None)[1] == written


def test_a_prompt_counts_by_its_bytes_and_messages_and_by_the_context_where_that_is_less() -> None:
    request = chat(max_tokens=5)
    least = len("xäöü€".encode()) + PER_PROMPT + 2 * PER_MESSAGE
    assert least < most_tokens(request, LONGEST, None)[0] < least + 120
    assert most_tokens(request, LONGEST, 20) == (20, 5)
    assert most_tokens(chat(), LONGEST, 20) == (20, 20)


def test_several_prompts_are_answered_each() -> None:
    document = {"model": "m", "prompt": ["a", "b"], "n": 2}
    assert most_tokens(parse_completion(document, BOUNDS), LONGEST, None)[1] == 16 * 4
    tokens = parse_completion({"model": "m", "prompt": [1, 2, 3], "max_tokens": 4}, BOUNDS)
    assert most_tokens(tokens, LONGEST, None)[1] == 4
    assert most_tokens(tokens, LONGEST, 3) == (3, 3)


def test_embeddings_write_nothing() -> None:
    request = parse_embeddings({"model": "m", "input": ["a" * 100, "b"]}, BOUNDS)
    assert most_tokens(request, LONGEST, 50) == (100, 0)


def test_responses_count_as_the_chat_that_they_become() -> None:
    request = parse_response({"model": "m", "input": "hi", "max_output_tokens": 30}, BOUNDS)
    assert most_tokens(request, LONGEST, None)[1] == 30


def test_money_is_that_of_the_dearest_target() -> None:
    prices = [
        PriceVersion(f"p{n}", name, cost, cost, cost, 0) for n, (name, cost) in enumerate({"a": 1, "b": 3}.items())
    ]
    book = PriceBook(prices)
    targets = [Target("a", "a", "v", "e", name) for name in ("a", "b")]
    assert most_nanos(10**6, 10**6, targets, book, 5) == 6
