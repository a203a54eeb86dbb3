# SPDX-License-Identifier: Apache-2.0
import asyncio

import pytest

from contract.errors import Overloaded
from contract.settings import GatewaySettings, Settings
from gateway.limits import Gate, Limits
from gateway.strand import Strand, Sweep, parked


def bounds(most: int) -> Settings:
    return Settings(gateway=GatewaySettings(max_concurrent=most))


class Visitor:
    """Goes through a gate and stays until it is let go."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.inside = self.leaving = False
        self.turned_away: Overloaded | None = None
        self.strand = Strand(self._visit())
        self.strand.wake()

    async def _visit(self) -> None:
        try:
            await self.gate.enter(self.strand)
        except Overloaded as error:
            self.turned_away = error
            return
        self.inside = True
        while not self.leaving:
            await parked()
        self.inside = False
        self.gate.leave()

    async def leave(self) -> None:
        self.leaving = True
        self.strand.wake()
        await asyncio.sleep(0)


async def test_more_than_fits_is_refused_with_a_time_to_come_back() -> None:
    limits = Limits(bounds(2))
    held = [limits.reserve(), limits.reserve()]
    with pytest.raises(Overloaded) as caught:
        limits.reserve()
    assert caught.value.retry_after == 1.0
    held[0].settle()
    limits.reserve()


async def test_settling_twice_gives_one_place_back() -> None:
    limits = Limits(bounds(2))
    first, _second = limits.reserve(), limits.reserve()
    first.settle()
    first.settle()
    assert limits.in_flight == 1


async def test_idle_comes_with_the_last_settlement() -> None:
    limits = Limits(bounds(2))
    held = [limits.reserve(), limits.reserve()]
    waiting = asyncio.create_task(limits.idle())
    held[0].settle()
    await asyncio.sleep(0)
    assert not waiting.done()
    held[1].settle()
    await waiting


async def test_who_finds_no_place_waits_in_line_and_the_line_has_an_end() -> None:
    gate = Gate("m", places=2, max_queue=2, timeout=60)
    visitors = [Visitor(gate) for _ in range(5)]
    assert [visitor.inside for visitor in visitors] == [True, True, False, False, False]
    assert visitors[4].turned_away is not None and "2 requests to m" in visitors[4].turned_away.message
    await visitors[1].leave()
    assert [visitor.inside for visitor in visitors] == [True, False, True, False, False]
    for visitor in (visitors[0], visitors[2], visitors[3]):
        await visitor.leave()
    assert gate.queued == 0
    again = [Visitor(gate) for _ in range(3)]
    assert [visitor.inside for visitor in again] == [True, True, False]
    for visitor in again:
        await visitor.leave()


async def test_who_gives_up_holds_no_place() -> None:
    gate = Gate("m", places=1, max_queue=3, timeout=60)
    first, second, third = (Visitor(gate) for _ in range(3))
    second.strand.throw(Overloaded("gone"))
    assert gate.queued == 1
    first.leaving = True
    first.strand.wake()
    # Its place is given to the third now, who goes before it could take it.
    third.strand.throw(Overloaded("gone"))
    await asyncio.sleep(0)
    last = Visitor(gate)
    assert last.inside
    await last.leave()


async def test_who_waits_too_long_is_told_so() -> None:
    gate, sweep = Gate("m", places=1, max_queue=1, timeout=0.01), Sweep()
    first, waiting = Visitor(gate), Visitor(gate)
    sweep.waiting.add(waiting.strand)
    sweeping = asyncio.create_task(sweep.run())
    while waiting.turned_away is None:
        await asyncio.sleep(0.01)
    sweeping.cancel()
    assert "gateway.queue_timeout" in waiting.turned_away.message
    assert waiting.turned_away.retry_after == 1.0
    assert gate.queued == 0
    await first.leave()
