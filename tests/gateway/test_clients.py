# SPDX-License-Identifier: Apache-2.0
"""The official client, in the release that is installed here and in the majors that users still have."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from millrace.fetch import cache_dir
from tests.gateway.engine import FakeEngine, error, whole_or_streamed
from tests.gateway.house import house, settings

OLDER = ["openai==2.54.0", "openai==1.109.1"]
SCRIPT = Path(__file__).with_name("sdk.py")
NO_INDEX = ("No matching distribution", "Could not find a version", "Failed to establish", "Connection")
FOUND = {
    "chat": ["one two three", "plain", 10, "stop"],
    "stream": ["one two three", 3],
    "async": ["one two three", "one two three"],
    "completion": "one two three",
    "completion stream": "one two three",
    "models": ["plain", "triage"],
    "model": "millrace",
    "raw": [True, "base"],
    "errors": {
        "bad value": ["BadRequestError", 400, "invalid_value", "temperature", "invalid_request_error", True],
        "bad field": ["BadRequestError", 400, "unknown_parameter", "chat_template", "invalid_request_error", True],
        "bad key": ["AuthenticationError", 401, "invalid_api_key", None, "authentication_error", True],
        "no model": ["NotFoundError", 404, "model_not_found", "model", "not_found_error", True],
        "no such model": ["NotFoundError", 404, "model_not_found", "model", "not_found_error", True],
        "too long": ["APIStatusError", 413, "payload_too_large", None, "invalid_request_error", True],
        "engine failed": ["InternalServerError", 502, "engine_error", None, "server_error", True],
        "engine full": ["InternalServerError", 503, "overloaded", None, "server_error", True],
        "too late": ["APITimeoutError"],
        "nobody there": ["APIConnectionError"],
        "broken stream": ["APIError"],
    },
}


def environment(requirement: str) -> Path:
    """The python of an environment that holds this release of the client; made where it is missing."""
    home = cache_dir() / "clients" / requirement
    if not (home / "done").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
        install = [home / "bin" / "pip", "install", "--quiet", "--retries", "1", requirement]
        outcome = subprocess.run(install, capture_output=True, text=True, check=False)
        if outcome.returncode and any(sign in outcome.stderr for sign in NO_INDEX):
            pytest.skip(f"no package index gives {requirement}: {outcome.stderr.strip().splitlines()[-1]}")
        assert outcome.returncode == 0, outcome.stderr
        (home / "done").touch()
    return home / "bin" / "python"


async def as_told(engine: FakeEngine, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    words = str(body["messages"][-1]["content"]) if "messages" in body else ""
    if words.startswith("fail"):
        return error(int(words.split()[1]), "told to fail")
    if words == "hang":
        await engine.release.wait()
    if words == "break":
        engine.script.die_after = 2
    return await whole_or_streamed(engine, request, body)


async def outcome_of(python: Path | str, engine: FakeEngine, folder: Path) -> dict[str, Any]:
    """What the script found with a python's release of the client."""
    engine.answer = as_told
    async with house(engine, settings(folder, engine.url, gateway="max_body: 20kB")) as home:
        process = await asyncio.create_subprocess_exec(
            str(python), str(SCRIPT), home.url, home.secret, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        told, complaint = await process.communicate()
    assert process.returncode == 0, complaint.decode()
    outcome: dict[str, Any] = json.loads(told)
    return outcome


async def test_the_release_installed_here_gets_what_it_expects(engine: FakeEngine, tmp_path: Path) -> None:
    outcome = await outcome_of(sys.executable, engine, tmp_path)
    assert outcome["version"].split(".")[0] == "3"
    assert outcome["found"] == FOUND


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("requirement", OLDER)
async def test_older_majors_get_the_same(engine: FakeEngine, tmp_path: Path, requirement: str) -> None:
    python = await asyncio.to_thread(environment, requirement)
    outcome = await outcome_of(python, engine, tmp_path)
    assert f"openai=={outcome['version']}" == requirement
    assert outcome["found"] == FOUND
