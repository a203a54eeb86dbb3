# SPDX-License-Identifier: Apache-2.0
"""Which weights to train on: the ones that the engine serves, because the engine is asked."""

import asyncio
import time
from pathlib import Path

import aiohttp

from contract.errors import EngineUnavailable, OperatorError
from contract.settings import Engine

WAIT_SECONDS = 300.0
"""For an engine that is not started here; one that is has its own `start_timeout`."""
POLL_SECONDS = 2.0


async def served_weights(engine: Engine, wait: float | None = None) -> str:
    """The folder or hub id behind the engine's base model; waits for an engine that is starting.

    Raises:
        EngineUnavailable: it does not answer within ``wait`` seconds (None: as long as it may take to start).
        OperatorError: it serves no such model, or from a folder that is not here.
    """
    deadline = time.monotonic() + (patience(engine) if wait is None else wait)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        while True:
            try:
                async with session.get(f"{engine.base_url}/v1/models") as response:
                    response.raise_for_status()
                    models = (await response.json())["data"]
                break
            except (TimeoutError, aiohttp.ClientError) as error:
                if time.monotonic() > deadline:
                    raise EngineUnavailable(
                        f"engine {engine.name} at {engine.base_url} does not say which weights it serves: {error}"
                    ) from error
                await asyncio.sleep(POLL_SECONDS)
    roots = [model.get("root") for model in models if model["id"] == engine.base_model]
    if not roots or not roots[0]:
        served = ", ".join(sorted(model["id"] for model in models))
        raise OperatorError(f"engine {engine.name} serves {served}, not its base_model {engine.base_model!r}")
    root = str(roots[0])
    _check_visible(engine, Path(root))
    return root


def patience(engine: Engine) -> float:
    """Seconds that the engine may take to start."""
    return engine.launch.start_timeout if engine.launch else WAIT_SECONDS


def _check_visible(engine: Engine, root: Path) -> None:
    if root.is_absolute() and not root.is_dir():
        raise OperatorError(f"engine {engine.name} serves {root}, a folder that the trainer cannot see")
