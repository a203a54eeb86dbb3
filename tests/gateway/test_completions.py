# SPDX-License-Identifier: Apache-2.0
"""The route without messages: its fields, and that it is metered and logged as the other one is."""

import json
import typing
from pathlib import Path
from typing import Any

import openai
import orjson
import pytest
from openai.types import completion_create_params

from contract.errors import InvalidRequest, UnsupportedParameter
from contract.settings import GatewaySettings
from gateway.asked import Asked
from gateway.completions import ACCEPTED, APPLIED, KEPT, OWN, REFUSED, parse_completion
from tests.gateway.engine import PROMPT_TOKENS, FakeEngine, Script
from tests.gateway.house import House, house, settings, until

BOTH_WAYS = True

BOUNDS = GatewaySettings(max_completion_tokens=100, max_choices=4)


def parsed(**fields: Any) -> Asked:
    return parse_completion({"model": "m", "prompt": "x", **fields}, BOUNDS)


def test_every_field_of_the_openai_schema_has_one_fate() -> None:
    known = [set(fate) for fate in (APPLIED, KEPT, ACCEPTED, REFUSED, OWN)]
    schema = set(typing.get_type_hints(completion_create_params.CompletionCreateParamsStreaming))
    assert set().union(*known) == schema
    assert sum(map(len, known)) == len(schema)


@pytest.mark.parametrize("prompt", ["x", "", ["x", "y"], [1, 2], [[1], [2, 3]]])
def test_a_prompt_is_text_or_tokens_one_or_several(prompt: Any) -> None:
    assert orjson.loads(parsed(prompt=prompt).prompt) == prompt


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"), ({"prompt": []}, "prompt"), ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": [1, "x"]}, "prompt[1]"), ({"prompt": ["x", 1]}, "prompt[1]"), ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": {"x": 1}}, "prompt"), ({"prompt": ["x"] * 5}, "prompt"), ({"prompt": ["x"] * 2, "n": 3}, "prompt"),
        ({"n": 5}, "n"), ({"max_tokens": 101}, "max_tokens"), ({"logprobs": 6}, "logprobs"),
        ({"logprobs": True}, "logprobs"), ({"messages": []}, "messages"), ({"model": None}, "model"),
        ({"stream_options": {"include_usage": True}}, "stream_options"), ({"prompt_embeds": "x"}, "prompt_embeds"),
    ],
)  # fmt: skip
def test_a_bad_value_is_named_with_its_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parsed(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize("fields", [{"suffix": "x"}, {"best_of": 2}, {"echo": True}])
def test_what_no_engine_here_can_do_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedParameter):
        parsed(**fields)


async def complete(home: House, **fields: Any) -> Any:
    async with home.client() as client:
        return await client.completions.create(**{"model": "plain", "prompt": "Once", **fields})


async def test_a_completion_is_what_its_record_says(home: House) -> None:
    answer, record = await complete(home, user="u", max_tokens=5, echo=False), home.final()
    (body,) = home.engine.chats()
    assert (body["prompt"], body["max_tokens"], body["model"], "echo" in body) == ("Once", 5, "base", False)
    assert (answer.model, answer.id, answer.choices[0].text) == ("plain", f"cmpl-{record.id}", "one two three")
    assert (record.endpoint, record.status, record.user) == ("/v1/completions", "complete", "u")
    assert (record.prompt_tokens, record.completion_tokens) == (answer.usage.prompt_tokens, 3)
    assert json.loads(record.messages or "") == "Once"
    (choice,) = json.loads(record.choices or "")
    assert (choice["message"]["content"], choice["finish_reason"]) == ("one two three", "length")
    assert record.cost is not None and record.cost > 0


async def test_a_streamed_completion_is_what_its_record_says(home: House) -> None:
    chunks = [chunk async for chunk in await complete(home, stream=True, stream_options={"include_usage": True})]
    record = home.final()
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == "one two three"
    assert {(chunk.id, chunk.model) for chunk in chunks} == {(f"cmpl-{record.id}", "plain")}
    assert [chunk.usage is not None for chunk in chunks] == [False] * 3 + [True]
    assert (record.prompt_tokens, record.completion_tokens, record.cached_tokens) == (PROMPT_TOKENS, 3, 2)


async def test_a_hang_up_amid_several_prompts_pays_for_each_that_came(home: House) -> None:
    home.engine.script = Script(n=2, hold_after=5)
    async with home.client() as client:
        answer = await client.completions.create(model="plain", prompt=["a", "b"], n=2, stream=True)
        chunks = aiter(answer)
        for _ in range(5):
            await anext(chunks)
        await answer.close()
    await until(lambda: any(record.status == "aborted" for record in home.invocations()))
    record = home.final()
    assert (record.prompt_tokens, record.completion_tokens) == (2 * PROMPT_TOKENS, 5)
    assert record.usage_source == "reported"


async def test_its_token_logprobs_are_kept_and_not_shown(engine: FakeEngine, tmp_path: Path) -> None:
    async with house(engine, settings(tmp_path, engine.url, policy="tokens: true")) as home:
        answer = await complete(home)
        assert answer.choices[0].logprobs is None
        assert home.final().logprobs == [[-0.5] * 3]
        (body,) = engine.chats()
        assert body["logprobs"] == 0


async def test_its_errors_are_typed(home: House) -> None:
    with pytest.raises(openai.NotFoundError):
        await complete(home, model="nobody")
    with pytest.raises(openai.BadRequestError) as caught:
        await complete(home, temperature=9)
    assert caught.value.param == "temperature"
    assert [record.endpoint for record in home.invocations()] == ["/v1/completions"] * 2
