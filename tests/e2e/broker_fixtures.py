# SPDX-License-Identifier: Apache-2.0
"""The broker for a test module that says ``pytest_plugins = ["tests.e2e.broker_fixtures"]``."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.broker import Broker
from tests.e2e.proxy import Proxy
from tests.logger.process import Logger


@pytest.fixture(scope="session")
def broker_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where brokers keep their program and what they print."""
    return tmp_path_factory.mktemp("broker")


@pytest.fixture(scope="session")
def broker(broker_folder: Path) -> Iterator[Broker]:
    """One broker for all who bring a topic of their own."""
    shared = Broker(broker_folder)
    shared.start()
    yield shared
    shared.stop()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """A way to a broker that can be cut."""
    made = Proxy()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def no_logger_is_left() -> Iterator[None]:
    """Whatever a test does, its loggers end with it."""
    known = len(Logger.started)
    yield
    Logger.end_those_after(known)
