# SPDX-License-Identifier: Apache-2.0
import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import psutil
import pytest

from contract.settings import parse_settings
from millrace import supervisor
from millrace.supervisor import Child
from millrace.up import Stack
from tests.millrace.test_supervisor import SERVER

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
        asyncio.get_running_loop().again = asyncio.create_task(interrupt_again_once_asked())  # type: ignore[attr-defined]
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.Event().wait()

    Stack(parse_settings(f"data_dir: {tmp_path}"), tmp_path / "millrace.yaml", [], said.append).run(body)
    assert said[-1] == "stopped"
    pid = int(log.read_text().split()[1])
    assert not psutil.pid_exists(pid)
