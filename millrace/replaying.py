# SPDX-License-Identifier: Apache-2.0
"""Logged requests sent again to a model, with what it answers beside what was answered then.

A replay is a request like any other: it is metered, limited and logged. Its metadata says of which invocation it is,
and nothing else of the old one's: so no conversation, and no feedback on one, moves to the new answer.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from openai import AsyncOpenAI, OpenAIError

from contract.ids import invocation_of
from contract.records import OF_MESSAGES
from logger.client import LoggerClient, Row

COMPLETIONS = "/v1/completions"
PAGE = 200
MARK = "replay_of"
"""The metadata key of a replay."""
_VERSION_HEADER = "x-millrace-model-version"


@dataclass(frozen=True)
class Answer:
    """One side of a comparison."""

    invocation: str
    version: str
    text: str | None
    """What each choice says, apart by an empty line; calls of tools as JSON."""
    finish_reasons: list[str]
    completion_tokens: int | None


@dataclass(frozen=True)
class Pair:
    """The answer of then, and that of now or why there is none."""

    then: Answer
    now: Answer | None
    error: str | None = None

    @property
    def same(self) -> bool:
        """Whether both say the same."""
        return self.now is not None and self.now.text == self.then.text

    def document(self) -> dict[str, Any]:
        """For a file of results."""
        return {**asdict(self), "same": self.same}


@dataclass
class Counts:
    """What became of the rows that the filter found."""

    requests: int = 0
    """Those that can be sent again."""
    prompt_tokens: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    """Why -> how many cannot."""
    same: int = 0
    different: int = 0
    failed: int = 0

    def skip(self, reason: str) -> None:
        """One more that cannot be sent."""
        self.skipped[reason] = self.skipped.get(reason, 0) + 1

    def add(self, pair: Pair) -> None:
        """One more that was sent."""
        if pair.now is None:
            self.failed += 1
        elif pair.same:
            self.same += 1
        else:
            self.different += 1


async def plan(log: LoggerClient, wanted: Mapping[str, Any], limit: int, counts: Counts) -> AsyncIterator[Row]:
    """The rows to send, oldest first, at most ``limit``; ``counts`` tells of them and of those left out.

    What is logged meanwhile, such as the replays themselves, is not among them.
    """
    after, end = 0, (await log.newest(1)).next
    while True:
        page = await log.invocations(after, PAGE, **wanted)
        for row in page.rows:
            if row["cursor"] > end or counts.requests >= limit:
                return
            if reason := _unfit(row):
                counts.skip(reason)
                continue
            counts.requests += 1
            counts.prompt_tokens += row["prompt_tokens"] or 0
            yield row
        if not page.rows:
            return
        after = page.next


async def replay(
    rows: AsyncIterator[Row], model: str, client: AsyncOpenAI, concurrency: int, put: Callable[[Pair], None]
) -> None:
    """Sends each row's request to ``model``, at most ``concurrency`` at once; ``put`` gets the pairs as they come."""
    waiting: set[asyncio.Task[Pair]] = set()
    try:
        async for row in rows:
            waiting.add(asyncio.create_task(_send(row, model, client)))
            if len(waiting) >= concurrency:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    put(task.result())
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                put(task.result())
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


def _unfit(row: Row) -> str | None:
    if row["endpoint"] not in (*OF_MESSAGES, COMPLETIONS):
        return f"{row['endpoint']} has no answer to compare"
    if row["messages"] is None:
        return "the prompt was not kept"
    if MARK in (row["metadata"] or {}):
        return "is a replay itself"
    return None


async def _send(row: Row, model: str, client: AsyncOpenAI) -> Pair:
    then = Answer(
        row["id"], row["version"], _text(row["choices"]), row["finish_reasons"] or [], row["completion_tokens"]
    )
    extra = {**(row["parameters"] or {})}
    try:
        if row["endpoint"] == COMPLETIONS:
            raw: Any = await client.completions.with_raw_response.create(
                model=model, prompt=row["messages"], extra_body=extra
            )
        else:
            raw = await client.chat.completions.with_raw_response.create(
                model=model, messages=row["messages"], extra_body=extra | {"metadata": {MARK: row["id"]}}
            )
    except OpenAIError as error:
        return Pair(then, None, str(error) or type(error).__name__)
    answer = json.loads(raw.text)
    choices, used = answer["choices"], answer.get("usage") or {}
    reasons = [choice["finish_reason"] for choice in choices]
    now = Answer(
        invocation_of(answer["id"]), raw.headers.get(_VERSION_HEADER, model), _text(choices), reasons,
        used.get("completion_tokens"),
    )  # fmt: skip
    return Pair(then, now)


def _text(choices: list[Row] | None) -> str | None:
    if choices is None:
        return None
    return "\n\n".join(map(_said, sorted(choices, key=lambda choice: choice.get("index", 0))))


def _said(choice: Row) -> str:
    message = choice.get("message") or {}
    text = message.get("content") or choice.get("text") or ""
    calls = [call.get("function") for call in message.get("tool_calls") or []]
    return text + (json.dumps(calls, sort_keys=True) if calls else "")
