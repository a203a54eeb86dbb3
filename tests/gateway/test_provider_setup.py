# SPDX-License-Identifier: Apache-2.0
"""When litellm is there and when it is not, what it does by itself (nothing), and a provider of another wire format."""

import asyncio
import json
import logging
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import openai
import pytest
from aiohttp import web

from contract.errors import OperatorError, SettingsError
from contract.settings import parse_settings
from gateway.providers import open_providers, sdk
from gateway.server import serve
from tests.gateway.engine import FakeEngine, Script, error
from tests.gateway.house import ASK, house, until
from tests.gateway.test_providers import KEY, ask, configured, said, stream
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


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_provider_of_another_wire_format_is_one_like_the_others(tmp_path: Path, streamed: bool) -> None:
    app = web.Application()
    app.router.add_post("/v1/messages", messages)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    fake = FakeEngine()
    fake.url = site.name.rstrip("/")
    question = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    async with house(fake, configured(tmp_path, fake, kind="anthropic")) as home:
        asked: dict[str, Any] = {"messages": question, "max_completion_tokens": 9}
        if streamed:
            chunks = await stream(home, **asked, stream_options={"include_usage": True})
            assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "one two three"
            assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (7, 3)
        else:
            assert (await ask(home, **asked)).choices[0].message.content == "one two three"
        record = home.final()
    await runner.cleanup()
    assert (said(record), record.finish_reasons, record.status) == ("one two three", ["length"], "complete")
    assert (record.prompt_tokens, record.cached_tokens, record.completion_tokens) == (7, 2, 3)
    assert record.usage_source == "reported"
