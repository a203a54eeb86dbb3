# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.settings import StoreSettings
from logger.spool import Producer, claim_producer
from logger.store import Store
from tests.logger.process import Logger


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "log.duckdb", StoreSettings())
    yield opened
    opened.close()


@pytest.fixture
def producer(tmp_path: Path) -> Iterator[Producer]:
    taken = claim_producer(tmp_path, "gateway")
    yield taken
    taken.release()


@pytest.fixture(autouse=True)
def no_logger_is_left() -> Iterator[None]:
    """Whatever a test does, its loggers end with it."""
    known = len(Logger.started)
    yield
    Logger.end_those_after(known)
