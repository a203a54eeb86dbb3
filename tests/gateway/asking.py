# SPDX-License-Identifier: Apache-2.0
"""Requests to the model `plain` by the official client, and what their records say of them."""

import json
from typing import Any

from openai.types.chat import ChatCompletionChunk

from contract.records import Invocation
from tests.gateway.house import ASK, House

TEXT = "one two three"
"""What an engine answers where its script says nothing else."""


async def stream(home: House, **fields: Any) -> list[ChatCompletionChunk]:
    """The chunks of a stream."""
    async with home.client() as client:
        answer = await client.chat.completions.create(**{"model": "plain", "messages": ASK, "stream": True, **fields})
        return [chunk async for chunk in answer]


async def ask(home: House, **fields: Any) -> Any:
    """A plain answer."""
    async with home.client() as client:
        return await client.chat.completions.create(**{"model": "plain", "messages": ASK, **fields})


def text_of(chunks: list[ChatCompletionChunk]) -> str:
    """What a stream's only choice says."""
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def said(record: Invocation) -> str:
    """What the record has of the answer."""
    return "".join(choice["message"]["content"] for choice in json.loads(record.choices or "[]"))


def cost(prompt: int, cached: int, completion: int) -> int:
    """Nano-dollars at the prices of `plain`: 0.5, 0.1 and 2 USD per million tokens."""
    return (prompt - cached) * 500 + cached * 100 + completion * 2000
