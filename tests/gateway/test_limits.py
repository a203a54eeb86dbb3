# SPDX-License-Identifier: Apache-2.0
import asyncio

import pytest

from contract.errors import Overloaded
from gateway.limits import Limits


async def test_more_than_fits_is_refused_with_a_time_to_come_back() -> None:
    limits = Limits(2)
    held = [limits.reserve(), limits.reserve()]
    with pytest.raises(Overloaded) as caught:
        limits.reserve()
    assert caught.value.retry_after == 1.0
    held[0].settle()
    limits.reserve()


async def test_settling_twice_gives_one_place_back() -> None:
    limits = Limits(2)
    first, _second = limits.reserve(), limits.reserve()
    first.settle()
    first.settle()
    assert limits.in_flight == 1


async def test_idle_comes_with_the_last_settlement() -> None:
    limits = Limits(2)
    held = [limits.reserve(), limits.reserve()]
    waiting = asyncio.create_task(limits.idle())
    held[0].settle()
    await asyncio.sleep(0)
    assert not waiting.done()
    held[1].settle()
    await waiting
