# SPDX-License-Identifier: Apache-2.0
"""Adapters that the settings declare: published at the start, as what a training job makes is."""

from pathlib import Path

import sqlalchemy as sa

from contract import registry
from contract.errors import AdapterRefused, SettingsError
from contract.registry import Version
from contract.settings import Engine, Settings
from trainer.publish import check, store

LARGEST_RANK = 512
"""Of any vLLM; an engine that was not launched here says for itself what it takes."""


def check_declared(settings: Settings) -> None:
    """Looks that every declared adapter is one that its engine takes.

    Raises:
        SettingsError: naming the model and the folder.
    """
    for name, model in settings.models.items():
        if model.adapter is not None:
            try:
                check(Path(model.adapter), _max_rank(settings.engine(model.backend)))
            except AdapterRefused as error:
                raise SettingsError(f"{settings.place('models', name, 'adapter')}: {error.message}") from error


def publish_declared(connection: sa.Connection, settings: Settings) -> list[Version]:
    """Publishes every declared adapter; one that was published before stays in the state that it is in."""
    published = []
    for name, model in settings.models.items():
        if model.adapter is None:
            continue
        base = settings.engine(model.backend).base_model
        gate = {"admitted": True, "reason": "declared in the settings", "figures": {}}
        manifest = {"base": base, "parent": None, "job": None, "gate": gate}
        digest, place = store(Path(model.adapter), name, manifest, settings.installation)
        published.append(
            registry.publish(
                connection,
                alias=name,
                engine=model.backend,
                base=base,
                digest=digest,
                path=str(place),
                manifest=manifest,
            )
        )
    return published


def _max_rank(engine: Engine) -> int:
    return LARGEST_RANK if engine.launch is None else engine.launch.max_lora_rank
