# SPDX-License-Identifier: Apache-2.0
import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from contract.errors import OperatorError
from millrace.supervisor import Child, Supervised, in_order

SERVER = """
import http.server, os, sys
print("serving", os.getpid(), flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *args): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def said() -> list[str]:
    return []


def a_child(folder: Path, port: int, code: str = SERVER, **changes: object) -> Child:
    values: dict[str, object] = {
        "name": "child",
        "command": [sys.executable, "-c", code, str(port)],
        "environment": dict(os.environ),
        "log": folder / "child.log",
        "ready_url": f"http://127.0.0.1:{port}/",
        "ready_timeout": 20.0,
    }
    return Child(**{**values, **changes})  # type: ignore[arg-type]  # a test's defaults


def alive_in(group: int) -> list[int]:
    """The processes of a group that are neither gone nor waiting for their parent to notice their end."""
    members = [p for p in psutil.process_iter(["pid", "status"]) if p.info["status"] != psutil.STATUS_ZOMBIE]
    return [p.pid for p in members if p.pid and _group_of(p.pid) == group]


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_killed_child_is_started_again_and_becomes_ready(tmp_path: Path, port: int, said: list[str]) -> None:
    child = Supervised(a_child(tmp_path, port), said.append)

    async def kill_it() -> None:
        first = child.pid
        assert first
        os.kill(first, signal.SIGKILL)
        await until(lambda: len([line for line in said if "is ready" in line]) == 2)
        assert child.pid not in (None, first)

    await in_order([child], kill_it, [child])
    assert child.pid is None
    assert any("ended with code -9; starting it again" in line for line in said)


async def test_a_child_that_cannot_start_is_explained_with_its_last_lines(
    tmp_path: Path, port: int, said: list[str]
) -> None:
    code = "import sys; print('the disk is on fire'); sys.exit(3)"
    child = Supervised(
        a_child(tmp_path, port, code, explain=lambda tail: "call the brigade" if "fire" in tail else None), said.append
    )
    with pytest.raises(OperatorError, match="ended with code 3: call the brigade\n    the disk is on fire"):
        await child.start()


async def test_lines_of_an_earlier_life_do_not_explain_this_one(tmp_path: Path, port: int, said: list[str]) -> None:
    (tmp_path / "child.log").write_text("out of memory\n")
    child = Supervised(a_child(tmp_path, port, "raise SystemExit(1)", explain=lambda tail: tail or None), said.append)
    with pytest.raises(OperatorError) as error:
        await child.start()
    assert "out of memory" not in error.value.message


async def test_another_server_on_the_port_is_named_not_taken_for_the_child(tmp_path: Path, said: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        with pytest.raises(OperatorError, match=f"port {taken} is already in use"):
            await Supervised(a_child(tmp_path, taken), said.append).start()


async def test_a_child_that_never_gets_ready_is_ended(tmp_path: Path, port: int, said: list[str]) -> None:
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    child = Supervised(a_child(tmp_path, port, code, ready_timeout=1.0), said.append)
    with pytest.raises(OperatorError, match="was not ready in 1 s"):
        await child.start()
    assert child.pid is None


async def test_stopping_ends_the_whole_process_group(tmp_path: Path, port: int, said: list[str]) -> None:
    grandchild = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
    child = Supervised(a_child(tmp_path, port, grandchild + SERVER), said.append)
    await child.start()
    group = child.pid
    assert group
    assert len(alive_in(group)) == 2
    await child.stop()
    await until(lambda: not alive_in(group))


async def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path, port: int, said: list[str]) -> None:
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SERVER
    child = Supervised(a_child(tmp_path, port, stubborn, stop_timeout=0.2), said.append)
    await child.start()
    await child.stop()
    assert child.pid is None
    assert any("was killed" in line for line in said)


async def test_what_was_started_is_stopped_when_a_later_child_fails(tmp_path: Path, port: int, said: list[str]) -> None:
    good = Supervised(a_child(tmp_path, port), said.append)
    bad = Supervised(a_child(tmp_path, 1, "raise SystemExit(1)", log=tmp_path / "bad.log"), said.append)

    async def never() -> None:
        raise AssertionError("the body must not run")

    with pytest.raises(OperatorError):
        await in_order([good, bad], never, [bad, good])
    assert good.pid is None


async def test_interrupted_the_body_ends_before_the_first_child_is_stopped(
    tmp_path: Path, port: int, said: list[str]
) -> None:
    child = Supervised(a_child(tmp_path, port), said.append)
    running, seen = asyncio.Event(), []

    async def body() -> None:
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            seen.append(child.pid)

    stack = asyncio.create_task(in_order([child], body, [child]))
    async with asyncio.timeout(20):
        await running.wait()
    alive = child.pid
    stack.cancel()
    await asyncio.gather(stack, return_exceptions=True)
    assert seen == [alive]
    assert alive is not None
    assert child.pid is None
