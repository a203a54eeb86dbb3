# SPDX-License-Identifier: Apache-2.0
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from tests.gateway.engine import FakeEngine
from tests.gateway.house import House, house, settings

# Nothing here asserts how long anything takes; the machine may be busy.
hypothesis_settings.register_profile("steady", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("steady")


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
