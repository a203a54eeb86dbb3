# SPDX-License-Identifier: Apache-2.0
"""A client that hangs up while litellm still prepares its call: nothing is left of it, and nothing warns."""

import asyncio
import gc
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.providers.begun import Watched
from gateway.providers.sdk import Sdk
from tests.gateway.engine import FakeEngine
from tests.gateway.house import ASK, until


class Preparation:
    """litellm's half of a call that runs in a thread; it goes on when it may."""

    def __init__(self, function: Any) -> None:
        self._function = function
        self.begun = threading.Event()
        self.may_end = threading.Event()
        self.made: list[Any] = []

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.begun.set()
        assert self.may_end.wait(20)
        self.made.append(self._function(*arguments, **named))
        return self.made[-1]


@pytest.fixture
def sdk() -> Sdk:
    return Sdk()


@pytest.fixture
def preparation(sdk: Sdk, monkeypatch: pytest.MonkeyPatch) -> Iterator[Preparation]:
    watched = sdk._litellm.main.completion
    assert isinstance(watched, Watched)
    held = Preparation(watched._function)
    monkeypatch.setattr(watched, "_function", held)
    yield held
    held.may_end.set()


@pytest.mark.parametrize("kind", ["openai", "hosted_vllm", "anthropic", "gemini"])
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("ready", [False, True], ids=["in the thread", "on its way back"])
async def test_a_call_given_up_before_it_began_leaves_nothing(
    engine: FakeEngine, sdk: Sdk, preparation: Preparation, kind: str, streamed: bool, ready: bool
) -> None:
    call = {"model": f"{kind}/base", "messages": ASK, "api_base": f"{engine.url}/v1", "api_key": "x", "timeout": 20}
    calling = asyncio.create_task(anext(sdk.chunks(call)) if streamed else sdk.whole(call))
    await until(preparation.begun.is_set)
    if ready:
        preparation.may_end.set()
        while not preparation.made:  # without the loop, which would go on with it
            preparation.begun.wait()
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    preparation.may_end.set()
    await until(lambda: preparation.made)
    await until(lambda: all(made.cr_frame is None for made in preparation.made))
    preparation.made.clear()
    gc.collect()
    assert engine.requests == []
    await sdk.close()


async def test_a_call_that_began_is_litellms_to_end(engine: FakeEngine, sdk: Sdk, preparation: Preparation) -> None:
    preparation.may_end.set()
    call = {"model": "openai/base", "messages": ASK, "api_base": f"{engine.url}/v1", "api_key": "x", "timeout": 20}
    answer = await sdk.whole(call)
    assert answer.choices[0].message.content == "one two three"
    assert len(preparation.made) == len(engine.requests) == 1
    await sdk.close()
