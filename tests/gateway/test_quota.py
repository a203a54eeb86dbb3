# SPDX-License-Identifier: Apache-2.0
"""The protocol of slices, whatever the order of its messages, and whatever dies, is lost or jumps in between."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from contract.money import NANO
from gateway.quota import LEASE_NS, Claim, Dimension, Grant, Hold, Limit, Need, Purse, granted, window

NOON = 1_700_000_040 * NANO
"""A whole minute."""


class Ledger:
    """A bank in memory."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, int], dict[tuple[str, int], tuple[int, int]]] = defaultdict(dict)

    def settle(self, holder: str, claims: Iterable[Claim], wall_ns: int) -> list[tuple[Claim, Grant]]:
        found = []
        for claim in claims:
            rows = self.rows[claim.limit.name, claim.starts_ns]
            leased = claim.limit.dimension is Dimension.CONCURRENT
            others = [
                held
                for key, (held, ends) in rows.items()
                if key != (holder, claim.visit) and not (leased and ends <= wall_ns)
            ]
            grant = granted(claim.limit, sum(others), len(others), claim)
            rows[holder, claim.visit] = (claim.held + grant.amount, claim.ends_ns)
            found.append((claim, grant))
        return found


class Gateway:
    """A worker with its purse, and what it has under way."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.purse = Purse()
        self.holds: list[tuple[Hold, Need, list[tuple[Limit, int]]]] = []
        self.round: tuple[list[Claim], int] | None = None


LIMITS = [
    Limit("key", "a", Dimension.REQUESTS, 2),
    Limit("key", "a", Dimension.TOKENS, 500),
    Limit("key", "a", Dimension.CONCURRENT, 2),
    Limit("project", "p", Dimension.DAY, 400),
    Limit("project", "p", Dimension.MONTH, 700),
]
WINDOWED = [limit for limit in LIMITS if limit.dimension is not Dimension.CONCURRENT]
NEEDS = st.sampled_from([Need(1, 0, 0), Need(1, 400, 300), Need(1, 150, 80)])
SUBJECTS = st.sampled_from([LIMITS, LIMITS[:1], LIMITS[1:2], LIMITS[2:3], LIMITS[3:]])
NUMBERS = st.integers(0, 1)


class AnyOrder(RuleBasedStateMachine):
    """Any interleaving of requests, rounds with the bank, losses and deaths."""

    def __init__(self) -> None:
        super().__init__()
        self.bank = Ledger()
        self.wall, self.mono, self.born = NOON, 0, 0
        self.used: dict[tuple[str, int], int] = defaultdict(int)
        """Reserved and settled, by the window in which it was reserved."""
        self.gateways = [self.born_one() for _ in range(2)]

    def born_one(self) -> Gateway:
        self.born += 1
        return Gateway(f"g{self.born}")

    @rule(number=NUMBERS, limits=SUBJECTS, need=NEEDS)
    def a_request_asks(self, number: int, limits: list[Limit], need: Need) -> None:
        gateway = self.gateways[number]
        self.end_round(gateway)
        gateway.round = gateway.purse.claims([(limits, need)], self.wall, self.mono), self.mono
        self.end_round(gateway)
        self.a_request_comes(number, limits, need)

    @rule(number=NUMBERS, limits=SUBJECTS, need=NEEDS)
    def a_request_comes(self, number: int, limits: list[Limit], need: Need) -> None:
        gateway = self.gateways[number]
        hold = gateway.purse.reserve(limits, need, self.wall, self.mono)
        if hold is not None:
            parts = [(limit, window(limit.dimension, self.wall)[0]) for limit in limits]
            for limit, start in parts:
                self.used[limit.name, start] += need[limit.measure]
            gateway.holds.append((hold, need, parts))

    @rule(number=NUMBERS, share=st.sampled_from([0, 0.5, 1]), data=st.data())
    def a_request_ends(self, number: int, share: float, data: st.DataObject) -> None:
        holds = self.gateways[number].holds
        if holds:
            hold, need, parts = holds.pop(data.draw(st.integers(0, len(holds) - 1)))
            real = Need(*(int(part * share) for part in need))
            hold.settle(real)
            hold.settle(Need())
            for limit, start in parts:
                left = 0 if limit.dimension is Dimension.CONCURRENT else real[limit.measure]
                self.used[limit.name, start] += left - need[limit.measure]

    @rule(number=NUMBERS, waiting=st.lists(st.tuples(SUBJECTS, NEEDS), max_size=3))
    def a_round_begins(self, number: int, waiting: list[tuple[list[Limit], Need]]) -> None:
        gateway = self.gateways[number]
        if gateway.round is None:
            gateway.round = gateway.purse.claims(waiting, self.wall, self.mono), self.mono

    @rule(number=NUMBERS, closing=st.booleans())
    def a_sweep_begins(self, number: int, closing: bool) -> None:
        gateway = self.gateways[number]
        if gateway.round is None:
            gateway.round = gateway.purse.sweep(self.wall, self.mono, closing=closing), self.mono

    @rule(number=NUMBERS)
    def a_round_ends(self, number: int) -> None:
        self.end_round(self.gateways[number])

    def end_round(self, gateway: Gateway) -> None:
        if gateway.round is not None:
            (claims, asked), gateway.round = gateway.round, None
            gateway.purse.answered(self.bank.settle(gateway.name, claims, self.wall), asked)

    @rule(number=NUMBERS, reached=st.booleans())
    def a_round_is_lost(self, number: int, reached: bool) -> None:
        """On its way to the bank, or on its way back."""
        gateway = self.gateways[number]
        if gateway.round is not None and reached:
            self.bank.settle(gateway.name, gateway.round[0], self.wall)
        gateway.round = None

    @rule(number=NUMBERS)
    def a_gateway_dies(self, number: int) -> None:
        for _, need, parts in self.gateways[number].holds:
            for limit, start in parts:
                if limit.dimension is Dimension.CONCURRENT:
                    self.used[limit.name, start] -= need[limit.measure]
        self.gateways[number] = self.born_one()

    def held_to(self) -> list[Limit]:
        return LIMITS

    @invariant()
    def no_limit_is_passed(self) -> None:
        for limit in self.held_to():
            for (name, start), used in self.used.items():
                assert name != limit.name or 0 <= used <= limit.amount, (name, start, used)


class TimePasses(AnyOrder):
    """Every gateway looks after its leases in time."""

    @rule(seconds=st.integers(0, 9))
    def time_passes(self, seconds: int) -> None:
        self.wall += seconds * NANO
        self.mono += seconds * NANO
        for gateway in self.gateways:
            self.end_round(gateway)
            gateway.round = gateway.purse.sweep(self.wall, self.mono), self.mono
            self.end_round(gateway)


class ClocksJump(AnyOrder):
    """The clock of the machine is set, back and forth, by as much as days; and gateways are suspended."""

    @rule(seconds=st.sampled_from([-86_400, -60, 60, 86_400]), suspended=st.sampled_from([0, 100]))
    def the_clock_jumps(self, seconds: int, suspended: int) -> None:
        self.wall += seconds * NANO
        self.mono += suspended * NANO

    @rule(number=NUMBERS, limits=SUBJECTS, need=NEEDS, seconds=st.sampled_from([-60, 60, 86_400]))
    def the_clock_is_wrong_for_a_request(self, number: int, limits: list[Limit], need: Need, seconds: int) -> None:
        self.wall += seconds * NANO
        self.a_request_asks(number, limits, need)
        self.wall -= seconds * NANO

    def held_to(self) -> list[Limit]:
        return WINDOWED


@pytest.mark.parametrize("machine", [AnyOrder, TimePasses, ClocksJump])
def test_no_order_of_events_passes_a_limit(machine: type[AnyOrder]) -> None:
    examples = settings(max_examples=50, stateful_step_count=80, deadline=None)
    run_state_machine_as_test(machine, settings=examples)


@given(st.lists(st.tuples(NUMBERS, NEEDS, st.booleans()), max_size=30))
def test_what_comes_back_can_be_used_again_to_the_last(requests: list[tuple[int, Need, bool]]) -> None:
    bank, gateways = Ledger(), [Gateway(f"g{number}") for number in range(2)]

    def settle(gateway: Gateway, claims: list[Claim]) -> None:
        gateway.purse.answered(bank.settle(gateway.name, claims, NOON), 0)

    holds = []
    for number, need, asks in requests:
        gateway = gateways[number]
        if asks:
            settle(gateway, gateway.purse.claims([(LIMITS, need)], NOON, 0))
        hold = gateway.purse.reserve(LIMITS, need, NOON, 0)
        if hold is not None:
            holds.append(hold)
    for hold in holds:
        hold.settle(Need())
    for gateway in gateways:
        settle(gateway, gateway.purse.sweep(NOON, 0, closing=True))
    whole = Need(requests=1, tokens=500, nanos=400)
    last = gateways[0]
    settle(last, last.purse.claims([(LIMITS, whole)], NOON, 0))
    assert last.purse.reserve(LIMITS, whole, NOON, 0) is not None


def purse_with(limit: Limit, bank: Ledger, need: Need, name: str = "g") -> Purse:
    purse = Purse()
    purse.answered(bank.settle(name, purse.claims([([limit], need)], NOON, 0), NOON), 0)
    return purse


def test_slices_are_large_while_there_is_plenty_and_shrink_to_one_request() -> None:
    bank, limit, sizes = Ledger(), Limit("key", "a", Dimension.REQUESTS, 16), []
    for number in range(6):
        purse = purse_with(limit, bank, Need(1), f"g{number}")
        sizes.append(purse.accounts[limit.name].held)
    assert sizes == [8, 2, 1, 1, 1, 1]


def test_what_was_used_beyond_all_foresight_is_paid_back_first() -> None:
    bank, limit = Ledger(), Limit("key", "a", Dimension.TOKENS, 100)
    purse = purse_with(limit, bank, Need(1, 40))
    hold = purse.reserve([limit], Need(1, 40), NOON, 0)
    assert hold is not None
    hold.settle(Need(1, 90))
    (claim,) = purse.claims([([limit], Need(1, 20))], NOON, 0)
    ((_, grant),) = bank.settle("g", [claim], NOON)
    assert grant.amount == 0
    (claim,) = purse.claims([([limit], Need(1, 10))], NOON, 0)
    purse.answered(bank.settle("g", [claim], NOON), 0)
    assert purse.reserve([limit], Need(1, 10), NOON, 0) is not None
    assert purse.reserve([limit], Need(1, 1), NOON, 0) is None


def test_the_places_of_a_gateway_that_died_come_back_after_its_lease() -> None:
    bank, limit = Ledger(), Limit("key", "a", Dimension.CONCURRENT, 1)
    purse_with(limit, bank, Need(1), "dead")
    other = Purse()
    claims = other.claims([([limit], Need(1))], NOON, 0)
    assert bank.settle("alive", claims, NOON + LEASE_NS - 1)[0][1].amount == 0
    assert bank.settle("alive", claims, NOON + LEASE_NS)[0][1].amount == 1


def test_who_was_suspended_for_longer_than_its_lease_takes_nobody_in_before_it_has_asked() -> None:
    bank, limit = Ledger(), Limit("key", "a", Dimension.CONCURRENT, 1)
    purse = purse_with(limit, bank, Need(1))
    assert purse.reserve([limit], Need(1), NOON, LEASE_NS) is None


def test_a_clock_that_is_set_back_finds_what_was_spent_and_so_does_one_that_comes_again() -> None:
    bank, limit = Ledger(), Limit("key", "a", Dimension.REQUESTS, 2)
    purse = purse_with(limit, bank, Need(2))
    assert purse.reserve([limit], Need(2), NOON, 0) is not None
    for later in (60, 0, 60, 0):
        wall = NOON + later * NANO
        claims = purse.claims([([limit], Need(1))], wall, 0)
        purse.answered(bank.settle("g", claims, wall), 0)
        assert (purse.reserve([limit], Need(1), wall, 0) is None) == (later == 0)


def test_an_answer_for_a_window_that_has_passed_is_void() -> None:
    bank, limit, later = Ledger(), Limit("key", "a", Dimension.REQUESTS, 2), NOON + 60 * NANO
    purse = Purse()
    claims = purse.claims([([limit], Need(2))], NOON, 0)
    assert purse.reserve([limit], Need(1), later, 0) is None
    purse.answered(bank.settle("g", claims, NOON), 0)
    assert purse.reserve([limit], Need(1), later, 0) is None


def test_an_end_in_the_next_window_gives_nothing_to_it() -> None:
    bank, limit, later = Ledger(), Limit("key", "a", Dimension.TOKENS, 100), NOON + 60 * NANO
    purse = purse_with(limit, bank, Need(1, 80))
    hold = purse.reserve([limit], Need(1, 80), NOON, 0)
    assert hold is not None
    assert purse.reserve([limit], Need(1, 80), later, 0) is None
    hold.settle(Need(1, 0))
    assert purse.accounts[limit.name].used == 0


def test_a_place_that_somebody_waits_for_goes_back_as_soon_as_it_is_free() -> None:
    bank, limit = Ledger(), Limit("key", "a", Dimension.CONCURRENT, 1)
    purse = purse_with(limit, bank, Need(1))
    hold = purse.reserve([limit], Need(1), NOON, 0)
    assert hold is not None
    assert purse.claims([], NOON, 0) == []
    hold.settle(Need())
    assert purse.urgent
    (claim,) = purse.claims([], NOON, 0)
    assert claim.held == 0


def test_an_idle_slice_goes_back_and_one_in_use_does_not() -> None:
    bank, limit = Ledger(), Limit("key", "a", Dimension.REQUESTS, 16)
    purse = purse_with(limit, bank, Need(1))
    assert purse.reserve([limit], Need(1), NOON, 0) is not None
    assert purse.sweep(NOON, NANO // 2) == []
    (claim,) = purse.sweep(NOON, 2 * NANO)
    assert claim.held == 1


def test_a_lower_limit_takes_back_what_is_free() -> None:
    bank, limit = Ledger(), Limit("key", "a", Dimension.REQUESTS, 16)
    purse = purse_with(limit, bank, Need(1))
    purse.reserve([limit], Need(1), NOON, 0)
    assert purse.reserve([Limit("key", "a", Dimension.REQUESTS, 2)], Need(1), NOON, 0) is None
    assert purse.accounts[limit.name].held == 1


def test_a_budget_keeps_little_at_one_gateway() -> None:
    bank, limit = Ledger(), Limit("key", "a", Dimension.MONTH, 10_000)
    assert purse_with(limit, bank, Need(1, 0, 30)).accounts[limit.name].held == 100


@pytest.mark.parametrize(
    ("dimension", "moment", "start", "end"),
    [
        (Dimension.TOKENS, "2026-12-31T23:59:59", "2026-12-31T23:59:00", "2027-01-01T00:00:00"),
        (Dimension.DAY, "2026-12-31T23:59:59", "2026-12-31T00:00:00", "2027-01-01T00:00:00"),
        (Dimension.MONTH, "2026-12-31T23:59:59", "2026-12-01T00:00:00", "2027-01-01T00:00:00"),
        (Dimension.MONTH, "2028-02-29T12:00:00", "2028-02-01T00:00:00", "2028-03-01T00:00:00"),
    ],
)
def test_windows_are_those_of_the_calendar(dimension: Dimension, moment: str, start: str, end: str) -> None:
    now, *bounds = (int(datetime.fromisoformat(f"{text}+00:00").timestamp()) * NANO for text in (moment, start, end))
    assert window(dimension, now + NANO - 1) == tuple(bounds)
