# SPDX-License-Identifier: Apache-2.0
"""From an adapter folder to an immutable version: checked, named by its content, moved in whole, registered.

What the engine would refuse when it loads the version is refused here, by name: DoRA, modules_to_save, a bias, an
initialisation other than LoRA's own, a rank above the engine's largest.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from contract import registry
from contract.errors import AdapterRefused
from contract.installation import Installation
from contract.registry import Version

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
MANIFEST = "manifest.json"


def check(folder: Path, max_rank: int) -> None:
    """Looks whether the engine will take this adapter.

    Raises:
        AdapterRefused: naming what is wrong with it.
    """
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise AdapterRefused(f"{folder} is no adapter: it needs {CONFIG} and {WEIGHTS}")
    try:
        config = json.loads((folder / CONFIG).read_text())
    except ValueError as error:
        raise AdapterRefused(f"{folder / CONFIG} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise AdapterRefused(f"{folder / CONFIG} is not a JSON object")
    ranks = [config.get("r", 0), *(config.get("rank_pattern") or {}).values()]
    refused = {
        f"peft_type {config.get('peft_type')!r}": config.get("peft_type") != "LORA",
        "use_dora": bool(config.get("use_dora")),
        "modules_to_save": bool(config.get("modules_to_save")),
        "bias": config.get("bias", "none") != "none",
        "lora_bias": bool(config.get("lora_bias")),
        "layer_replication": bool(config.get("layer_replication")),
        f"init_lora_weights {config.get('init_lora_weights')!r}": config.get("init_lora_weights", True)
        not in (True, False, "gaussian"),
        f"rank {max(ranks)} (the engine's max_lora_rank is {max_rank})": max(ranks) > max_rank,
    }
    found = [what for what, present in refused.items() if present]
    if found:
        raise AdapterRefused(f"the engine does not take an adapter with {', '.join(found)}")


def digest_of(folder: Path) -> str:
    """SHA-256 in hex over the adapter's own files: name, size and bytes, by name; the manifest is no part of it."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def store(folder: Path, alias: str, manifest: dict[str, Any], installation: Installation) -> tuple[str, Path]:
    """Copies an adapter to its immutable place, with ``manifest.json`` beside it; digest and place.

    The same adapter stored again is the folder that is there, with the manifest that it was first stored with.
    """
    digest = digest_of(folder)
    target = installation.adapters.absolute() / registry.version_id(alias, digest)
    if not target.exists():
        fresh = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(folder, fresh, ignore=shutil.ignore_patterns(MANIFEST))
        (fresh / MANIFEST).write_text(json.dumps(manifest, indent=2))
        fresh.replace(target)
    return digest, target


def publish(
    database: sa.Engine,
    folder: Path,
    *,
    alias: str,
    engine: str,
    base: str,
    job: str,
    parent: str | None,
    max_rank: int,
    manifest: dict[str, Any],
    installation: Installation,
) -> Version:
    """Checks, stores and registers an adapter as a version in state ``published``.

    Raises:
        AdapterRefused: the engine would not take it.
        DatabaseError: another adapter has the same first digits of its digest.
    """
    check(folder, max_rank)
    digest, place = store(folder, alias, manifest, installation)
    # Only now: a transaction keeps every other writer of the control database waiting.
    with database.begin() as connection:
        return registry.publish(
            connection,
            alias=alias,
            engine=engine,
            base=base,
            digest=digest,
            path=str(place),
            manifest=manifest,
            parent=parent,
            job=job,
        )
