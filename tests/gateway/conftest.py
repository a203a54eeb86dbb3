# SPDX-License-Identifier: Apache-2.0
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.gateway.engine import FakeEngine
from tests.gateway.house import House, house, settings


@pytest.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    fake = FakeEngine()
    await fake.start()
    yield fake
    await fake.stop()


@pytest.fixture
async def home(engine: FakeEngine, tmp_path: Path) -> AsyncIterator[House]:
    """A gateway with the usual settings."""
    async with house(engine, settings(tmp_path, engine.url)) as running:
        yield running
