# SPDX-License-Identifier: Apache-2.0
"""How bubblewrap is called: what the sandbox sees of the machine, and which way to become a nobody."""

import os
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

INSIDE = Path(__file__).parent / "inside"
VENV = Path("/venv")
"""Where the virtual environment is in the sandbox, wherever it is here: under /tmp it would be out of sight there."""
ENVIRONMENT = {
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "PATH": "/usr/bin:/bin",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONHASHSEED": "0",
    "TMPDIR": "/tmp",
    # A process that forks must have no threads, and one batch is one core's work.
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"),
}
_SYSTEM = ("/bin", "/lib", "/lib32", "/lib64", "/sbin")
_OF_A_PREFIX = ("bin", "lib", "lib64", "nltk_data", "pyvenv.cfg", "share")
_MANY = 65536


def bwrap() -> str | None:
    """Where bubblewrap is, or None."""
    return shutil.which("bwrap")


def nobody() -> int | None:
    """A user id that nothing else on this machine has, or None where this process may not become another.

    Root's processes are not counted against the limit on processes, not even inside a user namespace. So root makes
    the namespaces as itself, and the warm parent becomes this user before it imports anything.
    """
    first, _outside, count = map(int, Path("/proc/self/uid_map").read_text().split("\n")[0].split())
    if os.geteuid() != 0 or count < _MANY:
        return None
    return first + count - 2 - random.SystemRandom().randrange(min(count // 2, 2**30))


def python() -> str:
    """The interpreter, as the sandbox calls it."""
    return str(VENV / "bin" / "python") if sys.prefix != sys.base_prefix else sys.executable


def arguments(uid: int | None, seccomp: int, status: int, command: list[str]) -> list[str]:
    """The whole command; ``seccomp`` and ``status`` are descriptors that bubblewrap reads and writes."""
    return [
        bwrap() or "bwrap",
        *("--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"),
        *(("--unshare-user", "--uid", "65534", "--gid", "65534") if uid is None else ()),
        *("--cap-drop", "ALL", "--cap-add", "CAP_SYS_ADMIN"),
        *(() if uid is None else ("--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID")),
        *("--hostname", "sandbox", "--new-session", "--as-pid-1", "--chdir", "/", "--clearenv"),
        *(word for name, value in ENVIRONMENT.items() for word in ("--setenv", name, value)),
        *_files(),
        *("--seccomp", str(seccomp), "--json-status-fd", str(status), "--"),
        *command,
    ]


def _files() -> Iterator[str]:
    """System, interpreter and packages, read-only; nothing of data_dir, of /etc, of /home, of this project."""
    yield from ("--ro-bind", "/usr", "/usr")
    for name in _SYSTEM:
        yield from _at(Path(name), Path(name))
    yield from ("--dir", "/etc")
    for name in ("/etc/ld.so.cache", "/etc/localtime", "/etc/alternatives"):
        yield from ("--ro-bind-try", name, name)
    base = Path(sys.base_prefix)
    if not base.is_relative_to("/usr"):
        # A folder that bubblewrap makes by itself, on the way to another, is for root alone.
        for folder in reversed([base, *base.parents][:-1]):
            yield from ("--dir", str(folder))
        yield from _prefix(base, base)
    if sys.prefix != sys.base_prefix:
        yield from ("--dir", str(VENV), *_prefix(Path(sys.prefix), VENV))
    yield from ("--ro-bind", str(INSIDE), "/sandbox", "--dir", "/tmp")
    yield from ("--dir", "/dev", "--symlink", "/proc/self/fd", "/dev/fd")
    for name in ("full", "null", "random", "urandom", "zero"):
        yield from ("--dev-bind", f"/dev/{name}", f"/dev/{name}")
    yield from ("--proc", "/proc", "--remount-ro", "/")


def _prefix(here: Path, there: Path) -> Iterator[str]:
    """An installation of Python and nothing else that may lie in its folder."""
    for name in _OF_A_PREFIX:
        yield from _at(here / name, there / name)


def _at(here: Path, there: Path) -> tuple[str, ...]:
    """A path of this machine at its place in the sandbox: a link stays a link."""
    if here.is_symlink():
        return ("--symlink", str(here.readlink()), str(there))
    return ("--ro-bind", str(here), str(there)) if here.exists() else ()
