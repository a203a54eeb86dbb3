# SPDX-License-Identifier: Apache-2.0
"""A gateway whose model `plain` is a provider's, and what such a provider says."""

import json
from pathlib import Path
from typing import Any

from aiohttp import web

from contract.settings import Settings, parse_settings
from tests.gateway.engine import FakeEngine, frame

KEY = "sk-canary-of-the-provider"
SETTINGS = """
data_dir: {folder}
gateway: {{port: 0, drain_timeout: 5s, retry_share: 1, {gateway}}}
engines:
  - {{name: small, base_model: base, url: "{engine}"}}
providers:
  far: {{kind: {kind}, api_base: "{url}{path}", api_key_env: FAR_KEY{account}}}
models:
  plain: {{provider: far, model: base, price: {{input: 0.5, cached_input: 0.1, output: 2}}{model}}}
  local: {{engine: small, fallbacks: [plain], price: {{input: 3, output: 3}}}}
log: {{policy: {{{policy}}}}}
"""
KINDS = ("openai", "hosted_vllm")


def configured(
    folder: Path, provider: FakeEngine, engine: str = "http://127.0.0.1:9", kind: str = "openai", **more: str
) -> Settings:
    """Settings over a provider, and an engine whose fallback it is."""
    extra = {
        "path": {"anthropic": "", "gemini": "/v1beta"}.get(kind, "/v1"),
        "gateway": "",
        "account": "",
        "model": "",
        "policy": "",
        **more,
    }
    return parse_settings(SETTINGS.format(folder=folder, url=provider.url, engine=engine, kind=kind, **extra))


def chunk(request: web.Request, body: dict[str, Any], delta: dict[str, Any], end: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": end}
    return event({**frame(request, body, "chat.completion.chunk"), "choices": [choice]})


def event(said: Any) -> bytes:
    return b"data: " + json.dumps(said).encode() + b"\n\n"


async def sse(request: web.Request, *events: bytes, done: bytes = b"data: [DONE]\n\n") -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for each in events:
        await response.write(each)
    await response.write(done)
    return response
