# SPDX-License-Identifier: Apache-2.0
"""The demo's application and its users: nothing but the official `openai` client, as any customer would write it."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import httpx2
from openai import AsyncOpenAI, OpenAIError

from millrace.demo.data import Row

MODEL = "triage"
APP = "triage"
"""The requests' metadata.app: what the loop's filter looks for."""
BACKGROUND_APP = "triage-background"
AFTER_APP = "triage-after"
"""The same application after the release; its answers are for looking at, not for the loop."""
PROMPT = """\
Classify the sentiment of this product review sentence. Answer with one word: positive, negative or neutral.

Review: {text}

Sentiment:"""
MAX_TOKENS = 4
VERSION_HEADER = "x-millrace-model-version"

Item = TypeVar("Item")


@dataclass(frozen=True)
class Answer:
    """What the application got for one row: the response's id, its text, and the version that answered."""

    row: str
    id: str
    text: str
    version: str


def connect(base_url: str, key: str, transport: httpx2.AsyncBaseTransport | None = None) -> AsyncOpenAI:
    """A client that does not retry: what fails is seen to fail. ``transport`` stands in for the network."""
    http = httpx2.AsyncClient(transport=transport, timeout=httpx2.Timeout(120, connect=5))
    return AsyncOpenAI(base_url=f"{base_url}/v1", api_key=key, max_retries=0, http_client=http)


async def ask(client: AsyncOpenAI, row: Row, *, stream: bool, app: str = APP) -> Answer:
    """One request under the public model name, streamed or not.

    Raises:
        OpenAIError: the gateway refused it, or the answer broke off.
    """
    raw = await client.chat.completions.with_raw_response.create(
        model=MODEL,
        messages=[{"role": "user", "content": PROMPT.format(text=row.text)}],
        max_tokens=MAX_TOKENS,
        temperature=0,
        metadata={"app": app, "conversation": row.review, "row": row.id},
        stream=stream,
    )
    version = raw.headers.get(VERSION_HEADER, "")
    answer = raw.parse()
    if not isinstance(answer, AsyncIterable):
        return Answer(row.id, answer.id, answer.choices[0].message.content or "", version)
    identity, text, finished = "", "", False
    async for chunk in answer:
        identity = chunk.id
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finished = finished or choice.finish_reason is not None
    if not finished:
        raise OpenAIError(f"the stream {identity} ended without a finish reason")
    return Answer(row.id, identity, text, version)


async def give_label(client: AsyncOpenAI, invocation: str, label: str) -> None:
    """A user says what the right answer would have been."""
    body = {"invocation": invocation, "metric": "label", "value": label}
    await client.post("/feedback", cast_to=object, body=body)


async def at_once(items: Iterable[Item], work: Callable[[Item], Awaitable[None]], concurrency: int) -> None:
    """``work`` on every item, ``concurrency`` at a time; the first error stops it all."""
    waiting = iter(items)

    async def worker() -> None:
        for item in waiting:
            await work(item)

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(worker())


class Background:
    """A client that keeps sending at a steady rate, whatever happens to the model behind the name."""

    def __init__(self, client: AsyncOpenAI, rows: Sequence[Row], per_second: float) -> None:
        self.per_second = per_second
        self.versions: Counter[str] = Counter()
        """Answers by the version that gave them."""
        self.failures: list[str] = []
        self._client = client
        self._rows = rows
        self._pending: set[asyncio.Task[None]] = set()

    @property
    def answered(self) -> int:
        """Whole answers so far."""
        return self.versions.total()

    async def run(self) -> None:
        """Sends until it is cancelled, then waits for what is on its way."""
        try:
            for number, row in enumerate(itertools.cycle(self._rows)):
                task = asyncio.create_task(self._one(row, stream=number % 2 == 0))
                self._pending.add(task)
                task.add_done_callback(self._pending.discard)
                await asyncio.sleep(1 / self.per_second)
        finally:
            await asyncio.gather(*self._pending)

    async def _one(self, row: Row, stream: bool) -> None:
        try:
            answer = await ask(self._client, row, stream=stream, app=BACKGROUND_APP)
        except OpenAIError as error:
            self.failures.append(f"{type(error).__name__}: {error}")
        else:
            self.versions[answer.version] += 1
