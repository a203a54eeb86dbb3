# SPDX-License-Identifier: Apache-2.0
import threading

import pytest
import sqlalchemy as sa
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from contract.database import metadata
from contract.leases import NANOSECONDS, hold, release


def test_a_lease_is_one_holders_until_it_expires(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        assert hold(connection, "judge", "a", 10, lambda: 0)
        assert not hold(connection, "judge", "b", 10, lambda: 10 * NANOSECONDS - 1)
        assert hold(connection, "other", "b", 10, lambda: 0)
        assert hold(connection, "judge", "b", 10, lambda: 10 * NANOSECONDS)
        assert not hold(connection, "judge", "a", 10, lambda: 10 * NANOSECONDS)


def test_renewing_moves_the_end(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        assert hold(connection, "judge", "a", 10, lambda: 0)
        assert hold(connection, "judge", "a", 10, lambda: 9 * NANOSECONDS)
        assert not hold(connection, "judge", "b", 10, lambda: 18 * NANOSECONDS)


def test_releasing_frees_ones_own_lease_alone(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        hold(connection, "judge", "a", 10, lambda: 0)
        release(connection, "judge", "b")
        assert not hold(connection, "judge", "b", 10, lambda: 0)
        release(connection, "judge", "a")
        assert hold(connection, "judge", "b", 10, lambda: 0)


@pytest.mark.parametrize("ttl", [10.0, 0.0])
def test_of_many_who_ask_at_once_one_gets_a_lease_that_lasts(engine: sa.Engine, ttl: float) -> None:
    barrier, answers = threading.Barrier(8), list[bool]()

    def ask(holder: str) -> None:
        barrier.wait()
        with engine.begin() as connection:
            answers.append(hold(connection, "judge", holder, ttl, lambda: 0))

    threads = [threading.Thread(target=ask, args=(f"h{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers.count(True) == (1 if ttl else 8)


class LeaseModel(RuleBasedStateMachine):
    """Three holders and a clock: two never hold one lease at the same time."""

    @initialize()
    def empty(self) -> None:
        self.engine = sa.create_engine("sqlite://", poolclass=sa.pool.StaticPool)
        metadata.create_all(self.engine)
        self.now = 0
        self.until: dict[str, int] = {}

    @rule(seconds=st.integers(0, 12))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds * NANOSECONDS

    @rule(holder=st.sampled_from("abc"), ttl=st.integers(1, 10))
    def ask(self, holder: str, ttl: int) -> None:
        with self.engine.begin() as connection:
            got = hold(connection, "judge", holder, ttl, lambda: self.now)
        assert got == all(end <= self.now for other, end in self.until.items() if other != holder)
        if got:
            self.until[holder] = self.now + ttl * NANOSECONDS

    @rule(holder=st.sampled_from("abc"))
    def give_back(self, holder: str) -> None:
        with self.engine.begin() as connection:
            release(connection, "judge", holder)
        self.until.pop(holder, None)

    @invariant()
    def at_most_one_holds(self) -> None:
        assert sum(end > self.now for end in self.until.values()) <= 1

    def teardown(self) -> None:
        self.engine.dispose()


LeaseModel.TestCase.settings = hypothesis_settings(max_examples=50, stateful_step_count=30, deadline=None)
TestLeaseModel = LeaseModel.TestCase
