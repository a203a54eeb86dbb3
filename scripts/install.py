# SPDX-License-Identifier: Apache-2.0
"""`make install`: system packages, `.venv`, pinned packages, the embedded model and the demo's rows; each done once.

Standard library only, Python 3.11 or newer. Every step leaves a stamp that holds the digest of what decided it, so a
second run looks at a few files and is done. Environment:

    ENGINE       cpu (default) or gpu: which build of vLLM
    TORCH_INDEX  an index with CPU builds of torch, where plain `pip install torch` would bring the CUDA build
"""

import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STATE = ROOT / ".make"

sys.path.insert(0, str(ROOT))  # nothing is installed yet
from millrace.system import missing_packages  # noqa: E402  # after the line above


class InstallError(Exception):
    """Something the person installing has to mend."""


def main() -> None:
    """All steps in order; `millrace doctor` looks at the same things later."""
    engine = os.environ.get("ENGINE", "cpu")
    if engine not in ("cpu", "gpu"):
        raise InstallError(f"ENGINE={engine!r} is not an engine; it is cpu or gpu")
    STATE.mkdir(exist_ok=True)
    with (STATE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # `make demo` beside `make test`: the second waits for the first
        system_packages()
        locks = [ROOT / "requirements" / f"{engine}.lock", ROOT / "requirements" / "dev.lock"]
        if not runs(PYTHON):
            virtual_environment()
        pins = [engine, *(lock.read_text() for lock in locks)]
        once("packages", pins, lambda: packages(engine, locks))
        once("millrace", [(ROOT / "pyproject.toml").read_text()], editable)
        # These look at the cache themselves, and the cache may be emptied behind our back.
        run([PYTHON, "-m", "millrace.model"])
        run([PYTHON, "-m", "millrace.demo.data"])


def once(step: str, inputs: list[str], work: Callable[[], None]) -> None:
    """Call ``work`` unless its stamp says that it was done for the same inputs in this `.venv`."""
    digest = hashlib.sha256("\0".join(inputs).encode()).hexdigest()
    stamp = VENV / f".millrace-{step}"
    if stamp.exists() and stamp.read_text() == digest:
        return
    started = time.monotonic()
    work()
    stamp.write_text(digest)
    print(f"[install] {step}: {time.monotonic() - started:.0f} s", flush=True)


def runs(python: Path) -> bool:
    """Whether this interpreter is there, new enough, whole, and not a link to one that has been removed."""
    probe = [str(python), "-c", "import sys, pip; sys.exit(sys.version_info < (3, 11))"]
    return python.exists() and subprocess.run(probe, capture_output=True, check=False).returncode == 0


def system_packages() -> None:
    """Install what is missing where that is allowed, else say in one message what it is and what it is for."""
    missing = missing_packages()
    if not missing:
        return
    names = [package.name for package in missing]
    apt = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *names]
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    allowed = shutil.which("apt-get") and (
        not sudo or subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0
    )
    if allowed:
        say(f"system packages: {' '.join(names)}")
        log = STATE / "apt.log"
        with log.open("w") as output:
            environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            for command in (["apt-get", "update", "-q"], apt):
                result = subprocess.run([*sudo, *command], stdout=output, stderr=output, env=environment)
        if result.returncode == 0:
            return
        say(f"apt-get did not succeed; its output is in {log.relative_to(ROOT)}")
    uses = "".join(f"\n    {package.name}: {package.use}" for package in missing)
    say(f"going on without these system packages:{uses}\n  to have them: sudo {' '.join(apt)}")


def virtual_environment() -> None:
    """A fresh `.venv` with a recent pip."""
    if importlib.util.find_spec("ensurepip") is None:  # Debian packs it apart
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise InstallError(f"this Python has no venv module: sudo apt-get install python{version}-venv")
    run([sys.executable, "-m", "venv", "--clear", VENV])
    pip("install", "--quiet", "--upgrade", "pip")  # an old one misreads the metadata of new packages


def packages(engine: str, locks: list[Path]) -> None:
    """Exactly what the locks say; they are complete, so nothing is resolved."""
    say(f"packages for ENGINE={engine}: some minutes and 4 GB the first time")
    if engine == "cpu":
        cpu_torch(next(line for line in locks[0].read_text().splitlines() if line.startswith("torch==")))
    pip("install", "--quiet", "--no-deps", *(word for lock in locks for word in ("--requirement", str(lock))))


def cpu_torch(pin: str) -> None:
    """torch without CUDA: on Linux the package index holds the CUDA build under the same version, gigabytes of it."""
    index = os.environ.get("TORCH_INDEX")
    if index:
        pip("install", "--quiet", "--no-deps", "--extra-index-url", index, pin)
        return
    report = STATE / "torch.json"
    pip("install", "--quiet", "--no-deps", "--dry-run", "--ignore-installed", "--report", str(report), pin)
    metadata = json.loads(report.read_text())["install"][0]["metadata"]
    if not any(need.startswith(("cuda-", "nvidia-")) for need in metadata.get("requires_dist", [])):
        pip("install", "--quiet", "--no-deps", pin)
        return
    pip("install", "--quiet", "uv==0.13.9")  # it knows where the CPU builds of torch are published
    try:
        run(
            [
                PYTHON,
                "-m",
                "uv",
                "pip",
                "install",
                "--quiet",
                "--python",
                PYTHON,
                "--no-deps",
                "--torch-backend",
                "cpu",
                pin,
            ]
        )
    except InstallError as error:
        raise InstallError(
            f"{error}\nno CPU build of {pin} could be had; name an index that has it in TORCH_INDEX"
        ) from None


def editable() -> None:
    """This checkout as the package `millrace`; hatchling is in the locks, so no build environment is made."""
    pip("install", "--quiet", "--no-deps", "--no-build-isolation", "--editable", str(ROOT))


def pip(*arguments: str) -> None:
    """pip of `.venv`."""
    run([PYTHON, "-m", "pip", "--disable-pip-version-check", *arguments])


def run(command: list[str | Path]) -> None:
    """Run a step with its output visible."""
    code = subprocess.run([str(word) for word in command], cwd=ROOT, check=False).returncode
    if code != 0:
        raise InstallError(f"this step failed with exit code {code}: {' '.join(map(str, command))}")


def say(message: str) -> None:
    """One line of progress."""
    print(f"[install] {message}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except InstallError as problem:
        sys.exit(f"[install] {problem}")
