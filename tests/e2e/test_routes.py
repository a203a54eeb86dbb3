# SPDX-License-Identifier: Apache-2.0
"""What the official client gets on each route from a real engine, against what the spool holds."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from openai import BadRequestError, OpenAI

from contract.records import Invocation
from tests.e2e.lone import PRICE, Lone, lone_gateway
from tests.e2e.story import Story

HI: Any = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def lone(story: Story, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lone]:
    with lone_gateway(tmp_path_factory.mktemp("lone"), story.stack.settings.engines[0].base_url) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def client(lone: Lone) -> OpenAI:
    return OpenAI(base_url=f"{lone.url}/v1", api_key=lone.key, max_retries=0)


def record_of(lone: Lone, response: str) -> Invocation:
    return lone.invocations()[response.partition("-")[2]]


def compare(record: Invocation, usage: Any, texts: list[str]) -> None:
    """The record says what the client saw: text, tokens and price."""
    cached = usage.prompt_tokens_details.cached_tokens
    assert (record.status, record.usage_source) == ("complete", "reported")
    assert (record.prompt_tokens, record.cached_tokens, record.completion_tokens) == (
        usage.prompt_tokens, cached, usage.completion_tokens,
    )  # fmt: skip
    assert [choice["message"]["content"] for choice in json.loads(record.choices or "")] == texts
    assert sum(map(len, record.completion_token_ids or [])) == usage.completion_tokens
    assert [len(values) for values in record.logprobs or []] == list(map(len, record.completion_token_ids or []))
    millionths = (usage.prompt_tokens - cached) * PRICE["input"] + cached * PRICE["cached_input"]
    assert record.cost == round((millionths + usage.completion_tokens * PRICE["output"]) * 1000)


@pytest.mark.parametrize(
    ("prompt", "prompts"), [("The capital of France is", 1), ([504, 3575, 282], 1), (["One two", "The sky is"], 2)]
)
def test_completions(lone: Lone, client: OpenAI, prompt: Any, prompts: int) -> None:
    answer = client.completions.create(model="small", prompt=prompt, max_tokens=5, n=2, temperature=0.5)
    assert answer.model == "small"
    assert [choice.logprobs for choice in answer.choices] == [None] * 2 * prompts
    compare(record_of(lone, answer.id), answer.usage, [choice.text for choice in answer.choices])


def test_streamed_completions_of_several_prompts(lone: Lone, client: OpenAI) -> None:
    chunks = list(
        client.completions.create(
            model="small", prompt=["One two", "The sky is"], n=2, max_tokens=5, stream=True,
            stream_options={"include_usage": True},
        )
    )  # fmt: skip
    texts = ["", "", "", ""]
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    record = record_of(lone, chunks[0].id)
    compare(record, chunks[-1].usage, texts)
    assert record.cost is not None
    assert (chunks[-1].model_extra or {})["x_millrace_cost"] == f"{record.cost / 10**9:.9f}"
    assert all(chunk.model == "small" and chunk.usage is None for chunk in chunks[:-1])


@pytest.mark.parametrize("streamed", [False, True])
def test_chat_completions(lone: Lone, client: OpenAI, streamed: bool) -> None:
    if not streamed:
        answer = client.chat.completions.create(model="small", messages=HI, n=2, max_tokens=5)
        texts = [choice.message.content or "" for choice in answer.choices]
        compare(record_of(lone, answer.id), answer.usage, texts)
        return
    options: Any = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(client.chat.completions.create(model="small", messages=HI, max_tokens=5, **options))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    compare(record_of(lone, chunks[0].id), chunks[-1].usage, [text])


def test_a_hang_up_amid_several_prompts_pays_for_what_the_engine_counted(lone: Lone, client: OpenAI) -> None:
    stream = client.completions.create(
        model="small", prompt=["Count: one", "List: a"], max_tokens=400, stream=True, extra_body={"ignore_eos": True}
    )
    received = [next(stream) for _ in range(10)]
    stream.close()
    deadline = time.monotonic() + 60
    while received[0].id.partition("-")[2] not in lone.invocations():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    record = record_of(lone, received[0].id)
    whole = client.completions.create(model="small", prompt=["Count: one", "List: a"], max_tokens=1)
    assert whole.usage is not None
    assert (record.status, record.usage_source) == ("aborted", "reported")
    assert record.prompt_tokens == whole.usage.prompt_tokens
    assert record.completion_tokens == sum(map(len, record.completion_token_ids or [])) >= 10
    assert record.completion_tokens < 800


def test_what_the_engine_refuses_is_a_typed_error(lone: Lone, client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as caught:
        client.completions.create(model="small", prompt=[1] * 4000, max_tokens=5)
    assert "small" in str(caught.value) or "context" in str(caught.value) or "token" in str(caught.value)
    assert "smollm2" not in str(caught.value)
