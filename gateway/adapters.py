# SPDX-License-Identifier: Apache-2.0
"""Adapters that the settings declare: taken into the installation once, under their digest, and published.

The folder that the person named may change or go; the copy under ``blobs/adapters`` never does.
"""

import hashlib
import os
import shutil
from pathlib import Path

import sqlalchemy as sa

from contract import registry
from contract.errors import SettingsError
from contract.installation import Installation
from contract.registry import Version
from contract.settings import Settings

CONFIG = "adapter_config.json"


def digest_of(folder: Path) -> str:
    """SHA-256 in hex over every file of an adapter: name, size and bytes, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def check_declared(settings: Settings) -> None:
    """Looks that every declared adapter is one.

    Raises:
        SettingsError: naming the model and the folder.
    """
    for name, model in settings.models.items():
        if model.adapter is not None and not (Path(model.adapter) / CONFIG).is_file():
            raise SettingsError(f"models.{name}.adapter: {model.adapter!r} is no folder with an {CONFIG}")


def publish_declared(connection: sa.Connection, settings: Settings) -> list[Version]:
    """Publishes every declared adapter; one that was published before stays in the state that it is in."""
    published = []
    for name, model in settings.models.items():
        if model.adapter is None:
            continue
        source = Path(model.adapter)
        digest = digest_of(source)
        identifier = registry.version_id(name, digest)
        base = settings.engine(model.engine).base_model
        manifest = {
            "base": base,
            "gate": {"admitted": True, "reason": "declared in the settings", "figures": {}},
        }
        published.append(
            registry.publish(
                connection,
                alias=name,
                engine=model.engine,
                base=base,
                digest=digest,
                path=str(_take_in(source, identifier, settings.installation)),
                manifest=manifest,
            )
        )
    return published


def _take_in(source: Path, identifier: str, installation: Installation) -> Path:
    """A copy of the adapter that is whole from its first moment."""
    target = installation.adapters.absolute() / identifier
    if not target.exists():
        fresh = target.with_name(f".{identifier}.{os.getpid()}")
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(source, fresh)
        fresh.replace(target)
    return target
