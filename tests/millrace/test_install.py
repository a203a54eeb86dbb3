# SPDX-License-Identifier: Apache-2.0
import importlib.util
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from millrace.system import SystemPackage

SCRIPT = Path(__file__).parents[2] / "scripts" / "install.py"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The installer, working on an empty folder."""
    spec = importlib.util.spec_from_file_location("install", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".make").mkdir()
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(module, "STATE", tmp_path / ".make")
    return module


def test_a_step_is_done_once_for_the_same_inputs(install: ModuleType) -> None:
    done: list[str] = []
    for inputs in (["torch==1"], ["torch==1"], ["torch==2"], ["torch==2"]):
        install.once("packages", inputs, lambda: done.append("packages"))
    assert len(done) == 2


def test_a_step_that_failed_is_done_again(install: ModuleType) -> None:
    def fail() -> None:
        raise install.InstallError("no network")

    with pytest.raises(install.InstallError):
        install.once("packages", ["torch==1"], fail)
    done: list[str] = []
    install.once("packages", ["torch==1"], lambda: done.append("packages"))
    assert done


def test_who_may_not_install_is_told_of_everything_missing_at_once(
    install: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = [
        SystemPackage("bubblewrap", "bwrap", "the sandbox"),
        SystemPackage("prometheus", "promtool", "the rules"),
    ]
    ran: list[list[str]] = []

    def run(command: list[str], **rest: object) -> subprocess.CompletedProcess[str]:
        ran.append(command)
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(install, "missing_packages", lambda: missing)
    monkeypatch.setattr(install.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(install.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(install.subprocess, "run", run)
    install.system_packages()
    said = capsys.readouterr().out
    assert said.count("[install]") == 1
    assert "sudo apt-get install -y -q --no-install-recommends bubblewrap prometheus" in said
    assert ran == [["sudo", "-n", "true"]]


@pytest.mark.parametrize(
    ("needs", "source"),
    [(["filelock", "cuda-toolkit==13.0; platform_system == 'Linux'"], "uv"), (["filelock"], "pip")],
)
def test_the_cuda_build_of_torch_is_not_taken_for_the_cpu(
    install: ModuleType, monkeypatch: pytest.MonkeyPatch, needs: list[str], source: str
) -> None:
    took: list[str] = []

    def pip(*arguments: str) -> None:
        if "--report" in arguments:
            report = Path(arguments[arguments.index("--report") + 1])
            report.write_text(install.json.dumps({"install": [{"metadata": {"requires_dist": needs}}]}))
        elif "torch==2.13.0" in arguments:
            took.append("pip")

    monkeypatch.delenv("TORCH_INDEX", raising=False)
    monkeypatch.setattr(install, "pip", pip)
    monkeypatch.setattr(install, "run", lambda command: took.append("uv"))
    install.cpu_torch("torch==2.13.0")
    assert took == [source]


def test_an_index_that_was_named_is_used(install: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, ...]] = []
    monkeypatch.setenv("TORCH_INDEX", "https://mirror.example/cpu")
    monkeypatch.setattr(install, "pip", lambda *arguments: calls.append(arguments))
    install.cpu_torch("torch==2.13.0")
    assert calls == [
        ("install", "--quiet", "--no-deps", "--extra-index-url", "https://mirror.example/cpu", "torch==2.13.0")
    ]


def test_an_unknown_engine_is_refused(install: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE", "tpu")
    with pytest.raises(install.InstallError, match="ENGINE='tpu' is not an engine"):
        install.main()
