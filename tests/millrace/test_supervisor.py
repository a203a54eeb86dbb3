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
from millrace import supervisor
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

GRANDCHILD = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "


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
    return Child(**{**values, **changes})  # a test's defaults


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
        a_child(
            tmp_path,
            port,
            code,
            explain=lambda tail, code: "call the brigade" if "fire" in tail and code == 3 else None,
        ),
        said.append,
    )
    with pytest.raises(OperatorError, match="ended with code 3: call the brigade\n    the disk is on fire"):
        await child.start()


async def test_lines_of_an_earlier_life_do_not_explain_this_one(tmp_path: Path, port: int, said: list[str]) -> None:
    (tmp_path / "child.log").write_text("out of memory\n")
    child = Supervised(
        a_child(tmp_path, port, "raise SystemExit(1)", explain=lambda tail, code: tail or None), said.append
    )
    with pytest.raises(OperatorError) as error:
        await child.start()
    assert "out of memory" not in error.value.message


async def test_another_server_on_the_port_is_named_not_taken_for_the_child(tmp_path: Path, said: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        with pytest.raises(OperatorError, match=f"port {taken} is already in use; .* set gateway.port"):
            await Supervised(a_child(tmp_path, taken, port_setting="gateway.port"), said.append).start()


async def test_a_child_that_never_gets_ready_is_ended(tmp_path: Path, port: int, said: list[str]) -> None:
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    child = Supervised(a_child(tmp_path, port, code, ready_timeout=1.0), said.append)
    with pytest.raises(OperatorError, match="was not ready in 1 s"):
        await child.start()
    assert child.pid is None


async def test_stopping_ends_the_whole_process_group(tmp_path: Path, port: int, said: list[str]) -> None:
    child = Supervised(a_child(tmp_path, port, GRANDCHILD + SERVER), said.append)
    await child.start()
    group = child.pid
    assert group
    assert len(alive_in(group)) == 2
    await child.stop()
    await until(lambda: not alive_in(group))


async def test_what_a_dead_leader_left_behind_is_ended_before_another_serves(
    tmp_path: Path, port: int, said: list[str]
) -> None:
    child = Supervised(a_child(tmp_path, port, GRANDCHILD + SERVER), said.append)

    async def kill_the_leader() -> None:
        first = child.pid
        assert first
        os.kill(first, signal.SIGKILL)
        await until(lambda: child.pid not in (None, first))
        await until(lambda: not alive_in(first))

    await in_order([child], kill_the_leader, [child])


async def test_stopping_ends_what_a_leader_left_behind_that_is_gone_itself(
    tmp_path: Path, port: int, said: list[str]
) -> None:
    child = Supervised(a_child(tmp_path, port, GRANDCHILD + SERVER), said.append)
    await child.start()
    group = child.pid
    assert group
    os.kill(group, signal.SIGKILL)
    await until(lambda: child.pid is None)
    await child.stop()
    await until(lambda: not alive_in(group))


async def test_what_a_leader_that_drains_left_behind_finishes_its_work(
    tmp_path: Path, port: int, said: list[str]
) -> None:
    finishes = f"import pathlib, signal; signal.signal(signal.SIGTERM, lambda *_: pathlib.Path({str(tmp_path)!r}, "
    finishes += "'finished').touch() or exit()); print('set', flush=True); signal.pause()"
    leader = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {finishes!r}], stdout=-1)"
    child = Supervised(a_child(tmp_path, port, leader + ".stdout.readline(); " + SERVER, drains=True), said.append)
    await child.start()
    group = child.pid
    assert group
    os.kill(group, signal.SIGKILL)
    await until(lambda: child.pid is None)
    await child.stop()
    assert (tmp_path / "finished").exists()
    assert alive_in(group) == []


@pytest.mark.parametrize("essential", [True, False])
async def test_only_an_essential_child_that_keeps_dying_ends_the_others(
    tmp_path: Path, port: int, said: list[str], monkeypatch: pytest.MonkeyPatch, essential: bool
) -> None:
    monkeypatch.setattr(supervisor, "_MAX_RESTARTS", 1)
    monkeypatch.setattr(supervisor, "_FIRST_PAUSE", 0.001)
    child = Supervised(a_child(tmp_path, port, essential=essential), said.append)

    def lives() -> int:
        return len([line for line in said if "is ready" in line])

    async def kill_it_three_times() -> None:
        for life in (1, 2, 3):
            await until(lambda life=life: lives() == life)  # a default that binds it
            assert child.pid
            os.kill(child.pid, signal.SIGKILL)
        await until(lambda: lives() == 4)

    if essential:
        with pytest.raises(OperatorError, match="child ended 2 times in a row"):
            await in_order([child], kill_it_three_times, [child])
    else:
        await in_order([child], kill_it_three_times, [child])
        assert child.restarts == 3


async def test_the_pause_before_a_restart_stays_finite_however_often_it_died(
    tmp_path: Path, port: int, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_LONGEST_PAUSE", 0.01)
    child = Supervised(a_child(tmp_path, port, essential=False), said.append)
    child.restarts = 5000

    async def kill_it() -> None:
        assert child.pid
        os.kill(child.pid, signal.SIGKILL)
        await until(lambda: len([line for line in said if "is ready" in line]) == 2)

    await in_order([child], kill_it, [child])


async def test_a_child_that_cannot_even_be_started_again_is_told_of_and_tried_again(
    tmp_path: Path, port: int, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_FIRST_PAUSE", 0.001)
    program = tmp_path / "python"
    program.symlink_to(sys.executable)
    child = Supervised(a_child(tmp_path, port, command=[str(program), "-c", SERVER, str(port)]), said.append)

    async def take_its_program_away() -> None:
        assert child.pid
        program.rename(tmp_path / "elsewhere")
        os.kill(child.pid, signal.SIGKILL)
        await until(lambda: any("child cannot be started" in line for line in said))
        (tmp_path / "elsewhere").rename(program)
        await until(lambda: len([line for line in said if "is ready" in line]) == 2)

    await in_order([child], take_its_program_away, [child])


async def test_interrupted_again_while_it_stops_it_still_stops_everything(
    tmp_path: Path, port: int, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_HURRIED", 0.01)
    stubborn = "import signal; signal.signal(signal.SIGTERM, lambda *_: print('asked', flush=True))\n" + SERVER
    child = Supervised(a_child(tmp_path, port, stubborn, stop_timeout=600.0), said.append)
    running = asyncio.Event()

    async def body() -> None:
        running.set()
        await asyncio.Event().wait()

    stack = asyncio.create_task(in_order([child], body, [child]))
    async with asyncio.timeout(20):
        await running.wait()
    group = child.pid
    assert group
    stack.cancel()
    await until(lambda: "asked" in child.child.log.read_text())
    stack.cancel()
    child.hurry()
    with pytest.raises(asyncio.CancelledError):
        await stack
    assert child.pid is None
    assert alive_in(group) == []


async def test_a_large_log_is_put_aside_when_its_process_starts(
    tmp_path: Path, port: int, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_LOG_BYTES", 10)
    (tmp_path / "child.log").write_text("of an earlier life\n")
    child = Supervised(a_child(tmp_path, port), said.append)
    await child.start()
    await child.stop()
    assert (tmp_path / "child.log.1").read_text() == "of an earlier life\n"
    assert "earlier" not in (tmp_path / "child.log").read_text()


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
