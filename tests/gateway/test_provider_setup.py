# SPDX-License-Identifier: Apache-2.0
"""When litellm is there and when it is not, what it does by itself (nothing), and a provider of another wire format."""

import asyncio
import contextlib
import json
import logging
import re
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from aiohttp import web

from contract.errors import OperatorError, SettingsError
from contract.settings import parse_settings
from gateway.fields import parse_chat
from gateway.providers import open_providers, sdk
from gateway.routes import Target
from gateway.server import serve
from tests.gateway.asking import ask, said, stream
from tests.gateway.engine import FakeEngine, Script, error
from tests.gateway.house import ASK, House, house, until
from tests.gateway.provided import KEY, configured
from tests.gateway.test_server import Gateway, accepts, collect

ROOT = Path(__file__).parents[2]
TEXT = """
data_dir: {folder}
gateway: {{port: 0}}
providers: {{far: {{kind: {kind}, api_key_env: FAR_KEY}}}}
models: {{plain: {{provider: far, model: base, price: {{input: 1, output: 1}}}}}}
"""
# Makes a worker where no connection can be made and no name be looked up, and says what of litellm is there.
SEALED = """
import os, socket, sys
def refuse(*_):
    raise AssertionError("the network was used")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
os.environ["FAR_KEY"] = "sk-x"
os.chdir(sys.argv[2])
from contract.settings import parse_settings
from gateway.worker import Worker
worker = Worker(parse_settings(sys.argv[1]))
print("litellm" in sys.modules, [provider.name for provider in worker.providers], os.environ.get("OPENAI_API_KEY"))
"""


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAR_KEY", KEY)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (TEXT.format(folder="d", kind="openai"), "True ['far'] None"),
        ("data_dir: d\nmodels: {}", "False [] None"),
    ],
)
def test_litellm_is_imported_where_a_provider_is_declared_and_asks_nobody(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / ".env").write_text("OPENAI_API_KEY=sk-of-somebody-else\n")
    command = [sys.executable, "-W", "ignore", "-c", SEALED, text, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.stdout.strip(), done.returncode) == (told, 0), done.stderr


def test_the_provider_of_the_readme_can_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = re.findall(r"^(    providers:\n(?:    .*\n)+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    settings = parse_settings(textwrap.dedent(text))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    (provider,) = open_providers(settings)
    assert provider.holds("gpt-4o-mini")
    assert settings.price("mini").output == 600_000_000


def test_a_key_that_is_not_there_is_an_error_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FAR_KEY")
    settings = parse_settings(TEXT.format(folder=tmp_path, kind="openai"), "millrace.yaml")
    with pytest.raises(SettingsError, match=r"millrace.yaml:4: providers.far.api_key_env: 'FAR_KEY' is not set"):
        serve(settings)


def test_a_kind_that_litellm_does_not_know_is_an_error_at_the_start(tmp_path: Path) -> None:
    settings = parse_settings(TEXT.format(folder=tmp_path, kind="nowhere"), "millrace.yaml")
    with pytest.raises(SettingsError, match="millrace.yaml:4: providers.far.kind: 'nowhere' is no provider that litel"):
        open_providers(settings)


def test_where_litellm_is_not_installed_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "litellm", None)
    with pytest.raises(OperatorError, match=r"pip install 'millrace\[providers\]'"):
        sdk.Sdk()


@pytest.mark.slow
async def test_a_gateway_of_processes_drains_the_answers_of_a_provider(engine: FakeEngine, tmp_path: Path) -> None:
    engine.script = Script(hold_after=2)
    gateway = Gateway(tmp_path, engine, workers=2)
    file = tmp_path / "millrace.yaml"
    provider = f"providers: {{far: {{kind: openai, api_base: '{engine.url}/v1', api_key_env: FAR_KEY}}}}\n"
    model = "  mini: {provider: far, model: base, price: {input: 1, output: 1}}\n"
    file.write_text(f"{file.read_text()}{model}{provider}")
    await gateway.start()
    async with gateway.client() as client:
        asked = [client.chat.completions.create(model="mini", messages=ASK, stream=True) for _ in range(4)]
        reading = [asyncio.create_task(collect(stream)) for stream in await asyncio.gather(*asked)]
        await until(lambda: len(gateway.invocations()) == 4)
        gateway.process.terminate()
        await until(lambda: not accepts(gateway.port))
        engine.release.set()
        assert await asyncio.gather(*reading) == ["one two three"] * 4
        assert await gateway.process.wait() == 0
    ended = [record for record in gateway.invocations() if record.status != "open"]
    assert [(record.status, record.replica, record.completion_tokens) for record in ended] == [
        ("complete", "far", 3)
    ] * 4
    assert KEY not in (tmp_path / "log").read_text()


async def test_neither_a_key_nor_a_prompt_is_in_any_log(
    engine: FakeEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def refusing(_engine: FakeEngine, _request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return error(int(body["messages"][0]["content"].split()[1]), f"{KEY} may not ask {body['messages']}")

    with caplog.at_level(logging.DEBUG):
        async with house(engine, configured(tmp_path, engine)) as home:
            await ask(home, messages=[{"role": "user", "content": "hush 200"}])
            engine.answer = refusing
            for status in (400, 401, 500):
                for streamed in (False, True):
                    with pytest.raises(openai.APIStatusError):
                        await ask(home, messages=[{"role": "user", "content": f"hush {status}"}], stream=streamed)
    assert "the provider far of plain: AuthenticationError (401)" in caplog.text
    assert "canary" not in caplog.text
    assert "hush" not in caplog.text


def anthropic(body: dict[str, Any]) -> list[dict[str, Any]]:
    """A stream as Anthropic's API has it."""
    told = {"input_tokens": 5, "cache_read_input_tokens": 2, "output_tokens": 1}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": body["model"]}
    texts = [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
        for text in ("one ", "two ", "three")
    ]
    return [
        {"type": "message_start", "message": {**message, "stop_reason": None, "usage": told}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
        *texts,
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}, "usage": {"output_tokens": 3}},
        {"type": "message_stop"},
    ]


async def messages(request: web.Request) -> web.StreamResponse:
    """Anthropic's route."""
    body = await request.json()
    assert request.headers["x-api-key"] == KEY
    assert (body["system"], body["messages"][0]["role"], body["max_tokens"]) == (
        [{"type": "text", "text": "be brief"}], "user", 9,
    )  # fmt: skip
    if not body.get("stream"):
        told = {"input_tokens": 5, "cache_read_input_tokens": 2, "output_tokens": 3}
        answer = {"id": "msg_1", "type": "message", "role": "assistant", "model": body["model"], "usage": told}
        text = [{"type": "text", "text": "one two three"}]
        return web.json_response({**answer, "content": text, "stop_reason": "max_tokens"})
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for event in anthropic(body):
        await response.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
    return response


def gemini(text: str, end: str | None = None) -> dict[str, Any]:
    """An answer, or a chunk of one, as Gemini's API has it."""
    told = {"promptTokenCount": 7, "candidatesTokenCount": 3, "totalTokenCount": 10, "cachedContentTokenCount": 2}
    candidate = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}
    return {"candidates": [{**candidate, **({"finishReason": end} if end else {})}], "usageMetadata": told}


async def contents(request: web.Request) -> web.StreamResponse:
    """Gemini's routes."""
    body = await request.json()
    assert request.headers["x-goog-api-key"] == KEY
    assert (body["contents"][0]["role"], body["generationConfig"]["max_output_tokens"]) == ("user", 9)
    if "too long" in str(body["contents"]):
        error = {"code": 400, "message": "The input token count (9) exceeds the maximum number of tokens allowed (4)"}
        return web.json_response({"error": {**error, "status": "INVALID_ARGUMENT"}}, status=400)
    if not request.path.endswith(":streamGenerateContent"):
        return web.json_response(gemini("one two three", "MAX_TOKENS"))
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for chunk in (gemini("one "), gemini("two "), gemini("three", "MAX_TOKENS")):
        await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
    return response


@contextlib.asynccontextmanager
async def foreign(folder: Path, kind: str) -> AsyncIterator[House]:
    """A gateway over a provider that speaks in its own way."""
    app = web.Application()
    app.router.add_post("/v1/messages", messages)
    app.router.add_post("/v1beta/models/{call}", contents)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    fake = FakeEngine()
    fake.url = site.name.rstrip("/")
    async with house(fake, configured(folder, fake, kind=kind)) as home:
        yield home
    await runner.cleanup()


@pytest.mark.parametrize("kind", ["anthropic", "gemini"])
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_provider_of_another_wire_format_is_one_like_the_others(
    tmp_path: Path, kind: str, streamed: bool
) -> None:
    question = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    async with foreign(tmp_path, kind) as home:
        asked: dict[str, Any] = {"messages": question, "max_completion_tokens": 9}
        if streamed:
            chunks = await stream(home, **asked, stream_options={"include_usage": True})
            assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "one two three"
            assert [chunk.choices[0].finish_reason for chunk in chunks[-3:-1]] == [None, "length"]
            assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (7, 3)
        else:
            assert (await ask(home, **asked)).choices[0].message.content == "one two three"
        record = home.final()
    assert (said(record), record.finish_reasons, record.status) == ("one two three", ["length"], "complete")
    assert (record.prompt_tokens, record.cached_tokens, record.completion_tokens) == (7, 2, 3)
    assert record.usage_source == "reported"


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_prompt_that_is_too_long_is_told_in_the_providers_words_alone(tmp_path: Path, streamed: bool) -> None:
    async with foreign(tmp_path, "gemini") as home:
        question = [{"role": "user", "content": "too long"}]
        with pytest.raises(openai.BadRequestError) as caught:
            await ask(home, messages=question, max_completion_tokens=9, stream=streamed)
    assert (caught.value.code, caught.value.param) == ("invalid_value", "messages")
    assert caught.value.body["message"] == "The input token count (9) exceeds the maximum number of tokens allowed (4)"


async def test_no_key_is_sent_that_the_settings_do_not_name(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-somebody-else")
    named = configured(tmp_path, engine)
    provider = named.providers["far"].model_copy(update={"api_key_env": None})
    async with house(engine, named.model_copy(update={"providers": {"far": provider}})) as home:
        await ask(home)
    assert engine.headers[0]["authorization"] == "Bearer none"


def test_the_longest_answer_is_the_settings_or_the_models_whichever_is_less(tmp_path: Path) -> None:
    text = TEXT.format(folder=tmp_path, kind="openai").replace("model: base", "model: gpt-4o-mini")
    target = Target("plain", "plain", "gpt-4o-mini", "far", "plain")
    found = []
    for longest in (100, 100_000):
        settings = parse_settings(text.replace("port: 0", f"port: 0, max_completion_tokens: {longest}"))
        (provider,) = open_providers(settings)
        for more in ({}, {"max_tokens": 7}):
            call = provider.call(parse_chat({"model": "plain", "messages": ASK, **more}, settings.gateway), target)
            found.append((call.get("max_completion_tokens"), call.get("max_tokens")))
    assert found == [(100, None), (None, 7), (16384, None), (None, 7)]
