# SPDX-License-Identifier: Apache-2.0
"""What a user's program does with the official client, whichever release of it; prints what came of it as JSON.

Usage: python sdk.py URL KEY. It imports nothing of ours, as it runs in environments that have only the client.
"""

import asyncio
import json
import sys

import openai

URL, KEY = sys.argv[1], sys.argv[2]
ASK = [{"role": "user", "content": "Is it good?"}]


def client(**options):
    return openai.OpenAI(**{"base_url": URL + "/v1", "api_key": KEY, "max_retries": 0, "timeout": 20, **options})


def error(call):
    """The kind of exception that a call raises, and what it says."""
    try:
        call()
    except openai.APIStatusError as raised:
        has_id = bool(raised.request_id)
        return [type(raised).__name__, raised.status_code, raised.code, raised.param, raised.type, has_id]
    except openai.APIError as raised:
        return [type(raised).__name__]
    return ["nothing"]


def chat(asking, **fields):
    return asking.chat.completions.create(**{"model": "plain", "messages": ASK, **fields})


def text(chunks):
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


async def asynchronously():
    asking = openai.AsyncOpenAI(base_url=URL + "/v1", api_key=KEY, max_retries=0, timeout=20)
    async with asking:
        whole = await chat(asking)
        chunks = [chunk async for chunk in await chat(asking, stream=True)]
    return [whole.choices[0].message.content, text(chunks)]


def main():
    asking, found = client(), {}
    whole = chat(asking, temperature=0.5, max_tokens=5, user="u", metadata={"a": "b"})
    found["chat"] = [
        whole.choices[0].message.content,
        whole.model,
        whole.usage.total_tokens,
        whole.choices[0].finish_reason,
    ]
    chunks = list(chat(asking, stream=True, stream_options={"include_usage": True}))
    found["stream"] = [text(chunks), chunks[-1].usage.completion_tokens]
    found["async"] = asyncio.run(asynchronously())
    found["completion"] = asking.completions.create(model="plain", prompt="Once").choices[0].text
    pieces = list(asking.completions.create(model="plain", prompt="Once", stream=True))
    found["completion stream"] = "".join(piece.choices[0].text for piece in pieces if piece.choices)
    found["models"] = [model.id for model in asking.models.list()]
    found["model"] = asking.models.retrieve("plain").owned_by
    found["raw"] = chat_raw(asking)

    def say(words, **options):
        return error(lambda: chat(client(**options), messages=[{"role": "user", "content": words}]))

    found["errors"] = {
        "bad value": error(lambda: chat(asking, temperature=9)),
        "bad field": error(lambda: chat(asking, extra_body={"chat_template": "x"})),
        "bad key": say("x", api_key="mr-wrong"),
        "no model": error(lambda: chat(asking, model="nobody")),
        "no such model": error(lambda: asking.models.retrieve("nobody")),
        "too long": say("x" * 30_000),
        "engine failed": say("fail 500"),
        "engine full": say("fail 503"),
        "too late": say("hang", timeout=0.3),
        "nobody there": say("x", base_url="http://127.0.0.1:1/v1"),
        "broken stream": error(
            lambda: list(chat(asking, stream=True, messages=[{"role": "user", "content": "break"}]))
        ),
    }
    print(json.dumps({"version": openai.__version__, "found": found}))


def chat_raw(asking):
    raw = asking.chat.completions.with_raw_response.create(model="plain", messages=ASK)
    return [raw.headers["x-request-id"] in raw.parse().id, raw.headers["x-millrace-model-version"]]


if __name__ == "__main__":
    main()
