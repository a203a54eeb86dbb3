# SPDX-License-Identifier: Apache-2.0
"""What the official client gets on each route from a real engine, against what the spool holds."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from openai import BadRequestError, OpenAI
from openai.types import CompletionUsage
from openai.types.completion_usage import PromptTokensDetails
from openai.types.responses import Response
from pydantic import BaseModel

from contract.ids import invocation_of
from contract.records import Invocation
from tests.e2e.lone import PRICE, Lone, lone_gateway
from tests.e2e.story import Story

HI: Any = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def lone(story: Story, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lone]:
    with lone_gateway(tmp_path_factory.mktemp("lone"), story.stack.settings.engines[0].base_url) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def client(lone: Lone) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{lone.url}/v1", api_key=lone.key, max_retries=0) as client:
        yield client


def record_of(lone: Lone, response: str) -> Invocation:
    return lone.invocations()[invocation_of(response)]


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


def compare_response(lone: Lone, response: Response) -> Invocation:
    told = response.usage
    assert told is not None and response.id.startswith("resp_") and response.model == "small"
    cached = PromptTokensDetails(cached_tokens=told.input_tokens_details.cached_tokens)
    usage = CompletionUsage(
        prompt_tokens=told.input_tokens, completion_tokens=told.output_tokens, total_tokens=told.total_tokens,
        prompt_tokens_details=cached,
    )  # fmt: skip
    record = record_of(lone, response.id)
    compare(record, usage, [response.output_text])
    assert record.endpoint == "/v1/responses" and record.cost is not None
    assert (response.model_extra or {})["x_millrace_cost"] == f"{record.cost / 10**9:.9f}"
    return record


def test_responses_whole_and_streamed(lone: Lone, client: OpenAI) -> None:
    asked: Any = {"model": "small", "input": "Name a colour.", "instructions": "Be short.", "temperature": 0}
    plain = client.responses.create(**asked, max_output_tokens=5)
    record = compare_response(lone, plain)
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Name a colour."}]
    assert json.loads(record.messages or "") == messages
    assert (plain.status, plain.output[0].type) == ("incomplete", "message")
    events = list(client.responses.create(**asked, max_output_tokens=5, stream=True))
    last = events[-1]
    assert last.type == "response.incomplete" and last.response.output_text == plain.output_text
    compare_response(lone, last.response)
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == plain.output_text


class Opinion(BaseModel):
    good: bool


def test_a_response_in_a_schema_and_the_answer_to_it(lone: Lone, client: OpenAI) -> None:
    asked: Any = {"model": "small", "input": HI, "text_format": Opinion, "max_output_tokens": 60, "temperature": 0}
    first = client.responses.parse(**asked)
    compare_response(lone, first)
    assert (first.status, isinstance(first.output_parsed, Opinion)) == ("completed", True)
    with client.responses.stream(**asked, include=["message.output_text.logprobs"]) as stream:
        again = stream.get_final_response()
    compare_response(lone, again)
    (message,) = again.output
    assert again.output_parsed == first.output_parsed
    assert message.type == "message" and message.content[0].type == "output_text" and again.usage is not None
    assert len(message.content[0].logprobs or []) == again.usage.output_tokens
    history: Any = [*HI, *first.output, {"role": "user", "content": "Why?"}]
    second = client.responses.create(model="small", input=history, max_output_tokens=3)
    record = compare_response(lone, second)
    assert [said["role"] for said in json.loads(record.messages or "")] == ["user", "assistant", "user"]


def test_a_model_that_writes_has_no_embeddings_and_goes_on_writing(lone: Lone, client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as caught:
        client.embeddings.create(model="small", input="hi")
    assert (caught.value.param, caught.value.code) == ("model", "unsupported_model")
    assert "small" in caught.value.message and "smollm2" not in caught.value.message
    assert client.completions.create(model="small", prompt="a", max_tokens=1).choices


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
