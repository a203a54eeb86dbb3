# SPDX-License-Identifier: Apache-2.0
import asyncio
import fcntl
import os
import signal
import socket
import sys
from pathlib import Path

import psutil
import pytest

from contract.errors import OperatorError, SettingsError
from contract.settings import parse_settings
from millrace import supervisor
from millrace.supervisor import Child
from millrace.up import Stack
from tests.millrace.test_supervisor import SERVER

EVERYTHING = """
engines: [{name: e, base_model: b, url: "http://127.0.0.1:9"}]
models: {m: {engine: e, price: {input: 1, output: 2}}}
gateway: {workers: 1}
log: {feedback: {label: {type: label, values: [a, b]}}}
graders: {g: {type: string_check}}
judge: {live: [{grader: g}]}
trainer: {threads: 1}
loops: {l: {model: m, base: m, data: {reference: label}, graders: [g], trigger: {new_rows: 9}}}
"""
STUBBORN = "import signal; signal.signal(signal.SIGTERM, lambda *_: print('asked', flush=True))\n" + SERVER


def test_a_second_interrupt_makes_the_stop_short_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_HURRIED", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    log = tmp_path / "child.log"
    command = [sys.executable, "-c", STUBBORN, str(port)]
    child = Child("child", command, dict(os.environ), log, f"http://127.0.0.1:{port}/", 20.0, stop_timeout=600.0)
    monkeypatch.setattr(Stack, "children", lambda self: [child])
    said: list[str] = []

    async def interrupt_again_once_asked() -> None:
        while "asked" not in log.read_text():
            await asyncio.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    async def body() -> None:
        asyncio.get_running_loop().again = asyncio.create_task(interrupt_again_once_asked())
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.Event().wait()

    Stack(parse_settings(f"data_dir: {tmp_path}"), tmp_path / "millrace.yaml", [], said.append).run(body)
    assert said[0].startswith(f"starting on {tmp_path}; logs are in")
    assert said[-1] == "stopped"
    pid = int(log.read_text().split()[1])
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize("section", ["gateway", "log", "judge", "trainer"])
def test_a_port_that_the_kernel_would_choose_is_refused_by_name(tmp_path: Path, section: str) -> None:
    text = EVERYTHING.replace(f"{section}: {{", f"{section}: {{port: 0, ")
    stack = Stack(parse_settings(text), tmp_path / "millrace.yaml", [], print)
    with pytest.raises(SettingsError, match=f"{section}.port: 0: "):
        stack.children()


def test_a_port_that_is_taken_is_told_with_its_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)  # or a hub id that is not here would be refused
    launched = "engines: [{name: e, base_model: b, launch: {model: some/one}}]\n"
    text = launched + EVERYTHING.partition("\n")[2].partition("\n")[2]
    stack = Stack(parse_settings(text), tmp_path / "millrace.yaml", [], print)
    assert {child.name: child.port_setting for child in stack.children()} == {
        "engine-e": "engines[0].launch.port",
        "logger": "log.port",
        "gateway": "gateway.port",
        "judge": "judge.port",
        "trainer": "trainer.port",
    }


def test_a_gateway_on_every_address_is_asked_on_the_loopback_one(tmp_path: Path) -> None:
    settings = parse_settings("gateway: {host: '::'}")
    gateway = next(child for child in Stack(settings, tmp_path, [], print).children() if child.name == "gateway")
    assert gateway.ready_url == "http://[::1]:8080/health"
    assert (gateway.essential, gateway.drains) == (True, True)


def test_a_grader_that_cannot_be_built_is_told_before_anything_starts(tmp_path: Path) -> None:
    settings = parse_settings(f"data_dir: {tmp_path}/data\ngraders: {{g: {{type: nonsense}}}}")

    async def never() -> None:
        raise AssertionError("nothing may start")

    with pytest.raises(SettingsError, match="graders.g.type"):
        Stack(settings, tmp_path / "millrace.yaml", [], print).run(never)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("held", [True, False], ids=["already up", "no model folder"])
def test_nothing_is_said_to_start_where_it_is_refused(tmp_path: Path, held: bool) -> None:
    launch = "" if held else f"engines: [{{name: e, base_model: b, launch: {{model: {tmp_path}/gone}}}}]"
    settings = parse_settings(f"data_dir: {tmp_path}\n{launch}")
    said: list[str] = []
    stack = Stack(settings, tmp_path / "millrace.yaml", [], said.append)

    async def never() -> None:
        raise AssertionError("nothing may start")

    settings.installation.run.mkdir()
    with (settings.installation.run / "up.lock").open("a+") as lock:
        if held:
            fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(OperatorError, match="already up" if held else "no model folder"):
            stack.run(never)
    assert said == []
