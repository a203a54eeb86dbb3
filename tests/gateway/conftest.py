# SPDX-License-Identifier: Apache-2.0
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from tests.gateway.engine import FakeEngine
from tests.gateway.house import House, house, settings, spotless, warm_up
from tests.gateway.provided import KEY
from tests.gateway.raw import RawEngine

# Nothing here asserts how long anything takes; the machine may be busy.
hypothesis_settings.register_profile("steady", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("steady")


@pytest.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    fake = FakeEngine()
    await fake.start()
    yield fake
    await fake.stop()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A module with ``BOTH_WAYS`` runs its tests where a request waits for a connection, and where it goes at once."""
    if "warm" in metafunc.fixturenames and getattr(metafunc.module, "BOTH_WAYS", False):
        metafunc.parametrize("warm", [False, True], indirect=True, ids=["connected", "at once"])


@pytest.fixture
def warm(request: pytest.FixtureRequest) -> bool:
    """Whether the gateway has idle connections to its engine from the start."""
    return bool(getattr(request, "param", False))


@pytest.fixture
async def home(engine: FakeEngine, tmp_path: Path, warm: bool) -> AsyncIterator[House]:
    """A gateway with the usual settings."""
    async with house(engine, settings(tmp_path, engine.url)) as running:
        if warm:
            await warm_up(running)
        yield running


@pytest.fixture
async def raw_engine() -> AsyncIterator[RawEngine]:
    fake = RawEngine()
    await fake.start()
    yield fake
    await fake.stop()


@pytest.fixture
async def raw_home(
    raw_engine: RawEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture, warm: bool
) -> AsyncIterator[House]:
    """A gateway over an engine that says what a test wants byte for byte; it must be spotless afterwards."""
    async with spotless(raw_engine, settings(tmp_path, raw_engine.url, spool="64MiB"), caplog) as running:
        if warm:
            await warm_up(running)
        yield running


@pytest.fixture
def provider_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAR_KEY", KEY)


@pytest.fixture
async def tidy_home(engine: FakeEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> AsyncIterator[House]:
    """A gateway that must be spotless afterwards."""
    async with spotless(engine, settings(tmp_path, engine.url, spool="64MiB"), caplog) as running:
        yield running
