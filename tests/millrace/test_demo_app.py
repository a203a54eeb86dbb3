# SPDX-License-Identifier: Apache-2.0
import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from openai import OpenAIError

from millrace.demo.app import VERSION_HEADER, Background, ask, at_once, connect, give_label
from millrace.demo.data import Row

ROW = Row(id="7_3", review="review-7", text="it works very well", label="positive", rating=2.0)


def chunk(content: str | None, finish: str | None) -> str:
    choice = {"index": 0, "delta": {} if content is None else {"content": content}, "finish_reason": finish}
    body = {
        "id": "chatcmpl-inv_1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "triage",
        "choices": [choice],
    }
    return f"data: {json.dumps(body)}\n\n"


def whole(content: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": content}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return {"id": "chatcmpl-inv_1", "object": "chat.completion", "created": 1, "model": "triage", "choices": choices}


def answering(*pieces: str, ends: bool = True) -> Callable[[httpx2.Request], httpx2.Response]:
    def answer(request: httpx2.Request) -> httpx2.Response:
        headers = {VERSION_HEADER: "triage@0123456789ab"}
        if not json.loads(request.content)["stream"]:
            return httpx2.Response(200, headers=headers, json=whole("".join(pieces)))
        text = "".join(chunk(piece, None) for piece in pieces) + (chunk(None, "stop") if ends else "")
        headers["content-type"] = "text/event-stream"
        return httpx2.Response(200, headers=headers, text=text + "data: [DONE]\n\n")

    return answer


def client(handler: Callable[[httpx2.Request], httpx2.Response]):
    return connect("http://gateway", "mr-key", httpx2.MockTransport(handler))


@pytest.mark.parametrize("stream", [False, True])
async def test_streamed_or_not_the_answer_is_the_same(stream: bool) -> None:
    async with client(answering("posi", "tive")) as openai:
        answer = await ask(openai, ROW, stream=stream)
    assert (answer.row, answer.id, answer.text) == ("7_3", "chatcmpl-inv_1", "positive")
    assert answer.version == "triage@0123456789ab"


async def test_the_review_is_the_conversation() -> None:
    seen: list[dict[str, Any]] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(json.loads(request.content))
        return httpx2.Response(200, json=whole("positive"))

    async with client(answer) as openai:
        await ask(openai, ROW, stream=False)
    assert seen[0]["model"] == "triage"
    assert seen[0]["metadata"] == {"app": "triage", "conversation": "review-7", "row": "7_3"}


async def test_a_stream_that_just_ends_is_a_failure() -> None:
    async with client(answering("posi", ends=False)) as openai:
        with pytest.raises(OpenAIError, match="without a finish reason"):
            await ask(openai, ROW, stream=True)


async def test_feedback_names_the_answer_the_metric_and_the_label() -> None:
    seen: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(200, json={})

    async with client(answer) as openai:
        await give_label(openai, "inv_1", "negative")
    assert seen[0].url.path == "/v1/feedback"
    assert json.loads(seen[0].content) == {"invocation": "inv_1", "metric": "label", "value": "negative"}


async def test_the_background_client_counts_by_version_and_forgets_no_failure() -> None:
    enough = asyncio.Event()
    served = 0

    def answer(request: httpx2.Request) -> httpx2.Response:
        nonlocal served
        served += 1
        if served == 6:
            enough.set()
        if served == 3:
            return httpx2.Response(503, json={"error": {"message": "no replica", "type": "server_error"}})
        return answering("positive")(request)

    async with client(answer) as openai:
        background = Background(openai, [ROW], per_second=1000)
        asking = asyncio.create_task(background.run())
        async with asyncio.timeout(30):
            await enough.wait()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    assert background.answered == served - 1
    assert dict(background.versions) == {"triage@0123456789ab": served - 1}
    assert [failure.split(":")[0] for failure in background.failures] == ["InternalServerError"]


async def test_no_more_than_so_many_at_once() -> None:
    running, most, done = 0, 0, []

    async def work(item: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        done.append(item)

    await at_once(range(20), work, 3)
    assert sorted(done) == list(range(20))
    assert most == 3
