# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from contract.database import open_database


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    """A control database of its own, migrated."""
    opened = open_database(f"sqlite:///{tmp_path}/millrace.db")
    yield opened
    opened.dispose()
