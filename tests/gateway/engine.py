# SPDX-License-Identifier: Apache-2.0
"""An engine over real HTTP that does what a test tells it to. It speaks as vLLM 0.32 does.

Every word of an answer is one token. Usage comes in a stream as vLLM sends it: running, on each chunk, and at the end.
"""

import asyncio
import base64
import json
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

BASE = "base"
PROMPT_TOKENS = 7
Handler = Callable[["FakeEngine", web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]


@dataclass
class Script:
    """What the engine answers with."""

    words: list[str] = field(default_factory=lambda: ["one ", "two ", "three"])
    n: int = 1
    cached: int | None = 2
    usage: str = "running"
    """``running`` as vLLM; ``end`` on a chunk of its own; ``last`` on a chunk with choices; ``none``."""
    hold_after: int | None = None
    """Stop after so many events until `FakeEngine.release` is set."""
    die_after: int | None = None
    """Close the connection after so many events."""
    error_after: int | None = None
    """Send an error event after so many events."""
    garbage_after: int | None = None
    without_done: bool = False


class FakeEngine:
    """One replica."""

    def __init__(self) -> None:
        self.script = Script()
        self.answer: Handler = whole_or_streamed
        self.loaded: dict[str, str] = {}
        self.load_error: tuple[int, str] | None = None
        self.health = 200
        self.context: int | None = None
        self.pooling = False
        """It serves embeddings and nothing else; else everything but those."""
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.loads: list[str] = []
        self.unloads: list[str] = []
        self.aborts = 0
        self.release = asyncio.Event()
        self.url = ""
        self._runner: web.AppRunner | None = None
        self._port = 0

    async def start(self) -> None:
        """Listens; on the same port as before, where there was one."""
        app = web.Application(client_max_size=2**26)
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/completions", self._completion)
        app.router.add_post("/v1/embeddings", self._embeddings)
        app.router.add_post("/v1/load_lora_adapter", self._load)
        app.router.add_post("/v1/unload_lora_adapter", self._unload)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True)
        await site.start()
        assert site._server is not None
        self._port = site._server.sockets[0].getsockname()[1]  # asyncio's Server has them
        self.url = f"http://127.0.0.1:{self._port}"

    async def stop(self) -> None:
        """Goes away; what it had loaded is forgotten."""
        self.release.set()
        assert self._runner is not None
        await self._runner.cleanup()
        self.loaded.clear()

    def chats(self) -> list[dict[str, Any]]:
        """Bodies of the requests to models, without probes."""
        return [body for body in self.requests if "messages" not in body or body["messages"][0]["content"] != "ping"]

    async def _health(self, _request: web.Request) -> web.Response:
        return web.Response(status=self.health)

    async def _models(self, _request: web.Request) -> web.Response:
        names = [BASE, *self.loaded]
        return web.json_response(
            {
                "object": "list",
                "data": [
                    {"id": name, "root": f"/secret/{name}", "max_model_len": self.context if name == BASE else None}
                    for name in names
                ],
            }
        )

    async def _load(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.loads.append(body["lora_name"])
        if self.load_error is not None:
            return error(*self.load_error)
        if body["lora_name"] in self.loaded:
            return error(400, f"The lora adapter '{body['lora_name']}' has already been loaded.")
        self.loaded[body["lora_name"]] = body["lora_path"]
        return web.Response(text=f"Success: LoRA adapter '{body['lora_name']}' added successfully.")

    async def _unload(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.unloads.append(body["lora_name"])
        if self.loaded.pop(body["lora_name"], None) is None:
            return error(404, "The lora adapter cannot be found.")
        return web.Response(text="Success")

    async def _completion(self, request: web.Request) -> web.StreamResponse:
        return await self._chat(request)

    async def _embeddings(self, request: web.Request) -> web.StreamResponse:
        return await self._asked(request) if self.pooling else no_route()

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return no_route() if self.pooling else await self._asked(request)

    async def _asked(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        if body["model"] != BASE and body["model"] not in self.loaded:
            return error(404, f"The model `{body['model']}` does not exist.")
        try:
            return await self.answer(self, request, body)
        except (asyncio.CancelledError, ConnectionError):
            self.aborts += 1
            raise


def error(status: int, message: str) -> web.Response:
    """An error as vLLM sends it."""
    body = {"error": {"message": message, "type": "BadRequestError", "param": None, "code": status}}
    return web.json_response(body, status=status)


def no_route() -> web.Response:
    """What an engine says of a route that its model does not serve."""
    return web.json_response({"detail": "Not Found"}, status=404)


def usage(prompt: int, completion: int, cached: int | None = None) -> dict[str, Any]:
    """Usage as vLLM has it."""
    told: dict[str, Any] = {
        "prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion,
        "prompt_tokens_details": None,
    }  # fmt: skip
    if cached is not None:
        told["prompt_tokens_details"] = {"cached_tokens": cached}
    return told


def frame(request: web.Request, body: dict[str, Any], kind: str) -> dict[str, Any]:
    """What every answer begins with."""
    identifier = f"chatcmpl-{request.headers.get('X-Request-Id', 'random')}"
    return {"id": identifier, "object": kind, "created": 1700000000, "model": body["model"]}


def events(engine: FakeEngine, request: web.Request, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The chunks of a stream, in order."""
    script, head = engine.script, frame(request, body, "chat.completion.chunk")
    running, found = script.usage == "running", []
    for index in range(script.n):
        delta = {"role": "assistant", "content": ""}
        chunk = {**head, "choices": [{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}]}
        if body.get("return_token_ids"):
            chunk["prompt_token_ids"] = list(range(PROMPT_TOKENS))
        found.append({**chunk, **({"usage": usage(PROMPT_TOKENS, 0)} if running else {})})
    for count, word in enumerate(script.words, 1):
        for index in range(script.n):
            last = count == len(script.words)
            choice: dict[str, Any] = {
                "index": index, "delta": {"content": word}, "logprobs": None, "finish_reason": "stop" if last else None,
                "token_ids": None,
            }  # fmt: skip
            if body.get("return_token_ids"):
                choice["token_ids"] = [100 + count]
            if body.get("logprobs"):
                choice["logprobs"] = {"content": [{"token": word, "logprob": -0.5, "bytes": None, "top_logprobs": []}]}
            chunk = {**head, "choices": [choice]}
            if running or (script.usage == "last" and last and index == script.n - 1):
                total = count if running else count * script.n
                chunk["usage"] = usage(PROMPT_TOKENS, total, None if running else script.cached)
            found.append(chunk)
    if script.usage in ("running", "end"):
        total = len(script.words) * script.n
        found.append({**head, "choices": [], "usage": usage(PROMPT_TOKENS, total, script.cached)})
    return found


async def whole_or_streamed(engine: FakeEngine, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """The usual behaviour, as `Script` has it."""
    if "input" in body:
        return embeddings(request, body)
    if "prompt" in body:
        return await completion(engine, request, body)
    return await (streamed if body.get("stream") else whole)(engine, request, body)


VECTOR = (0.5, -0.25, 1.0)


def embeddings(request: web.Request, body: dict[str, Any]) -> web.Response:
    """To each input the same vector; every word, or token, is one token."""
    given = body["input"]
    inputs = given if isinstance(given, list) and isinstance(given[0], str | list) else [given]
    vector = list(VECTOR[: body.get("dimensions")])
    shown: Any = vector
    if body.get("encoding_format") == "base64":
        shown = base64.b64encode(struct.pack(f"={len(vector)}f", *vector)).decode()
    tokens = sum(len(each.split() if isinstance(each, str) else each) for each in inputs)
    told = {
        "id": f"embd-{request.headers['X-Request-Id']}", "object": "list", "created": 1700000000,
        "model": body["model"],
        "data": [{"index": index, "object": "embedding", "embedding": shown} for index in range(len(inputs))],
        "usage": {**usage(tokens, 0), "completion_tokens_details": None},
    }  # fmt: skip
    return web.Response(body=json.dumps(told, separators=(",", ":")).encode(), content_type="application/json")


async def completion(engine: FakeEngine, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """A completion without messages: to each prompt `Script.n` times its words."""
    script, prompt = engine.script, body["prompt"]
    several = isinstance(prompt, list) and isinstance(prompt[0], str | list)
    number, words = (len(prompt) if several else 1) * script.n, script.words
    head = {
        "id": f"cmpl-{request.headers['X-Request-Id']}", "object": "text_completion", "created": 1700000000,
        "model": body["model"],
    }  # fmt: skip
    total = usage(PROMPT_TOKENS * number // script.n, len(words) * number, script.cached)
    logprobs = {"tokens": words, "token_logprobs": [-0.5] * len(words)} if "logprobs" in body else None
    if not body.get("stream"):
        choice = {"text": "".join(words), "logprobs": logprobs, "finish_reason": "length"}
        return web.json_response(
            {**head, "choices": [{"index": index, **choice} for index in range(number)], "usage": total}
        )
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    await response.prepare(request)
    sent = 0
    for count, word in enumerate(words, 1):
        for index in range(number):
            if sent == script.hold_after:
                await engine.release.wait()
            choice = {"index": index, "text": word, "logprobs": None, "finish_reason": None}
            chunk = {**head, "choices": [choice], "usage": usage(PROMPT_TOKENS, count)}
            await response.write(b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n")
            sent += 1
    chunk = {**head, "choices": [], "usage": total}
    await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\ndata: [DONE]\n\n")
    return response


async def whole(engine: FakeEngine, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """A plain answer."""
    script = engine.script
    if script.hold_after is not None:
        await engine.release.wait()
    answer = frame(request, body, "chat.completion")
    message = {"role": "assistant", "content": "".join(script.words), "refusal": None, "tool_calls": []}
    answer["choices"] = [
        {"index": index, "message": message, "logprobs": None, "finish_reason": "stop", "token_ids": None}
        for index in range(script.n)
    ]
    if script.usage != "none":
        answer["usage"] = usage(PROMPT_TOKENS, len(script.words) * script.n, script.cached)
    return web.Response(body=json.dumps(answer).encode(), content_type="application/json")


async def streamed(engine: FakeEngine, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """A stream."""
    script = engine.script
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    await response.prepare(request)
    chunks = events(engine, request, body)
    for number, chunk in enumerate(chunks):
        if number == script.hold_after:
            await engine.release.wait()
        if number == script.die_after:
            assert request.transport is not None
            request.transport.abort()
            return response
        if number == script.error_after:
            said = {"error": {"message": "EngineCore died", "type": "InternalServerError", "param": None, "code": 500}}
            await response.write(b"data: " + json.dumps(said).encode() + b"\n\ndata: [DONE]\n\n")
            return response
        if number == script.garbage_after:
            await response.write(b"data: {not json\n\n")
        await response.write(b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n")
    if len(chunks) == script.hold_after:
        await engine.release.wait()
    if not script.without_done:
        await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response
