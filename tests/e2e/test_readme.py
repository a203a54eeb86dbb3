# SPDX-License-Identifier: Apache-2.0
"""The README is run: its client against the running stack, its settings file, its commands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from millrace.cli import app
from tests.e2e.lone import lone_gateway
from tests.e2e.story import Story

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    return str(found)


@pytest.fixture
def settings_file(tmp_path: Path) -> Path:
    file = tmp_path / "millrace.yaml"
    file.write_text(block("yaml"))
    return file


def millrace(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "millrace", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_client_of_the_readme_gets_an_answer_and_its_feedback_is_taken(story: Story) -> None:
    code = block("python").replace("http://127.0.0.1:8080", story.stack.url).replace("mr-…", story.key)
    code += "\nprint(answer.id, answer.choices[0].message.content)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("chatcmpl-inv_")


def test_the_settings_file_of_the_readme_is_good(settings_file: Path) -> None:
    done = millrace("config", "check", "--config", settings_file)
    assert (done.returncode, done.stdout.strip()) == (0, "the settings are good")
    assert millrace("keys", "create", "--config", settings_file).stdout.startswith("mr-")
    (limited,) = re.findall(r"`millrace (keys limit [^`]+)`", README)
    assert "600 requests a minute" in millrace(*limited.split(), "--config", settings_file).stdout


def test_every_command_in_the_readme_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)\b", README)) <= targets
    group = typer.main.get_command(app)
    said = re.findall(r"[`/]millrace ((?:[a-z]+ ?)+)", README)
    assert len(said) >= 4
    for words in said:
        command = group
        for word in words.split():
            if hasattr(command, "commands"):
                assert word in command.commands, words
                command = command.commands[word]


def test_a_gateway_alone_serves_an_engine_that_is_given_by_its_url(story: Story, tmp_path: Path) -> None:
    with lone_gateway(tmp_path, story.stack.settings.engines[0].base_url) as gateway:
        code = block("python").replace("http://127.0.0.1:8080", gateway.url).replace("mr-…", gateway.key)
        code = code.replace('"triage"', '"small"').split("client.post")[0]
        code += "\nprint(answer.model, answer.usage.total_tokens)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
        assert done.stdout.startswith("small "), done.stderr
