# SPDX-License-Identifier: Apache-2.0
import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import stack as stacks
from tests.e2e.story import Story, tell

MODEL_TIMEOUT = 2400


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test that needs the story waits for the whole of it; the one that ends it is the last."""
    for item in items:
        if "story" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(MODEL_TIMEOUT))
    items.sort(key=lambda item: item.name == "test_stopping_ends_every_process")


@pytest.fixture(scope="session")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """The loop turned once on real parts, with the engine killed twice; told once, read by many tests."""
    folder: Path = tmp_path_factory.mktemp("story")
    stack = stacks.start(folder, new_rows=60)
    try:
        yield asyncio.run(tell(stack))
    finally:
        if stack.process.poll() is None:
            stacks.stop(stack)
