# SPDX-License-Identifier: Apache-2.0
"""A whole Millrace on this machine, started as a user starts it: `millrace up` on real parts."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
from openai import AsyncOpenAI

from contract.settings import Settings, load_settings

T = TypeVar("T")
LABELS = ("negative", "neutral", "positive")
PROMPT = "Classify the sentiment of this product review sentence. Answer with one word: negative, neutral or positive."

SETTINGS = """
data_dir: data
gateway: {{port: {gateway}}}
engines:
  - name: main
    base_model: smollm2-135m
    launch: {{model: smollm2-135m, port: {engine}, eager: true, max_model_len: 1024, kv_cache: 1GiB}}
models:
  smollm2-135m: {{engine: main, price: {{input: 0.02, cached_input: 0.01, output: 0.04}}}}
  triage: {{engine: main, price: {{input: 0.02, cached_input: 0.01, output: 0.04}}}}
log:
  port: {logger}
  feedback: {{label: {{type: label, values: [negative, neutral, positive]}}}}
graders:
  label-match:
    type: string_check
    name: label-match
    input: "{{{{ sample.output_text }}}}"
    reference: "{{{{ item.reference_answer }}}}"
    operation: eq
judge:
  port: {judge}
  live: [{{grader: label-match, models: [triage], reference: label}}]
trainer: {{port: {trainer}}}
loops:
  triage:
    model: triage
    base: smollm2-135m
    data: {{reference: label, min_rows: 40, holdout: 0.3}}
    graders: [label-match]
    trigger: {{new_rows: {new_rows}}}
    training: {{steps: 2, prompts_per_step: 4, completions_per_prompt: 4, checkpoint_every: 1}}
    gate: {{beats: [], min_rows: 5}}
"""


@dataclass
class Stack:
    """One running installation."""

    folder: Path
    config: Path
    settings: Settings
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return self.settings.gateway.url

    def millrace(self, *arguments: str) -> Any:
        """A command of ours with --json, as a user would run it."""
        command = [sys.executable, "-m", "millrace", *arguments, "--config", str(self.config), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def client(self, key: str) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=120)

    def engine_process(self) -> psutil.Process:
        """The process that listens on the engine's port."""
        assert self.settings.engines[0].launch
        port = self.settings.engines[0].launch.port
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return psutil.Process(connection.pid)
        raise AssertionError(f"nothing listens on {port}")

    def kill_engine(self) -> None:
        """SIGKILL to the engine and everything it started."""
        engine = self.engine_process()
        for process in [*engine.children(recursive=True), engine]:
            process.kill()

    def get(self, path: str) -> tuple[int, Any]:
        """A GET to the gateway: (status, JSON body or text)."""
        try:
            with urllib.request.urlopen(f"{self.url}{path}", timeout=10) as response:
                status, body = response.status, response.read()
        except urllib.error.HTTPError as error:
            status, body = error.code, error.read()
        except OSError:
            return 0, None
        try:
            return status, json.loads(body)
        except ValueError:
            return status, body.decode()

    def logs(self) -> str:
        """The end of every process's log, for a failure's report."""
        parts = [
            f"== {p.name}\n{p.read_text(errors='replace')[-3000:]}"
            for p in sorted(self.settings.installation.logs.glob("*"))
        ]
        return "\n".join(parts)


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, all different."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def start(folder: Path, new_rows: int) -> Stack:
    """`millrace up` on free ports; returns once it says that it is up."""
    names = ("gateway", "engine", "logger", "judge", "trainer")
    config = folder / "millrace.yaml"
    config.write_text(SETTINGS.format(**dict(zip(names, free_ports(5), strict=True)), new_rows=new_rows))
    command = [sys.executable, "-m", "millrace", "up", "--config", str(config)]
    with (folder / "up.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    stack = Stack(folder, config, load_settings(config, environment={}), process)
    deadline = time.monotonic() + 600
    while "Millrace is up" not in (folder / "up.log").read_text():
        assert process.poll() is None, (folder / "up.log").read_text()
        assert time.monotonic() < deadline, (folder / "up.log").read_text() + stack.logs()
        time.sleep(0.1)
    return stack


def stop(stack: Stack) -> int:
    """Ctrl-C; the exit code."""
    stack.process.send_signal(signal.SIGINT)
    return stack.process.wait(120)


async def until(question: Callable[[], Awaitable[T | None]], seconds: float, what: str, stack: Stack) -> T:
    """Asks until there is an answer that is not None.

    Raises:
        AssertionError: none came in time; with the ends of all logs.
    """
    deadline = time.monotonic() + seconds
    while True:
        answer = await question()
        if answer is not None:
            return answer
        assert time.monotonic() < deadline, f"{what}: not in {seconds} s\n{stack.logs()}"
        assert stack.process.poll() is None, f"millrace up ended\n{(stack.folder / 'up.log').read_text()}"
        await asyncio.sleep(0.25)
