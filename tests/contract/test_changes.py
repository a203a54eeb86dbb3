# SPDX-License-Identifier: Apache-2.0
import sqlalchemy as sa

from contract.changes import Follower, note


def subjects(follower: Follower) -> list[str]:
    return [change.subject for change in follower.poll()]


def test_a_follower_sees_what_comes_after_it_once_and_in_order(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        note(connection, "keys", "before")
    follower = Follower(engine)
    assert follower.poll() == []
    with engine.begin() as connection:
        note(connection, "keys", "first")
        note(connection, "prices", "second")
    found = follower.poll()
    assert [(change.topic, change.subject) for change in found] == [("keys", "first"), ("prices", "second")]
    assert follower.poll() == []


def test_a_change_that_was_rolled_back_is_never_seen(engine: sa.Engine) -> None:
    follower = Follower(engine)
    with engine.connect() as connection, connection.begin() as transaction:
        note(connection, "keys", "undone")
        transaction.rollback()
    with engine.begin() as connection:
        note(connection, "keys", "done")
    assert subjects(follower) == ["done"]


def test_a_change_under_way_is_not_seen_before_it_is_whole_and_not_missed_after(engine: sa.Engine) -> None:
    follower = Follower(engine)
    with engine.begin() as connection:
        note(connection, "versions", "slow")
        assert subjects(follower) == []
    assert subjects(follower) == ["slow"]


def test_followers_do_not_take_changes_from_each_other(engine: sa.Engine) -> None:
    one, two = Follower(engine), Follower(engine)
    with engine.begin() as connection:
        note(connection, "jobs", "j")
    assert subjects(one) == ["j"] and subjects(two) == ["j"]


def test_positions_are_not_used_again_after_old_changes_are_deleted(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        note(connection, "keys", "old")
    follower = Follower(engine)
    with engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM changes"))
        note(connection, "keys", "new")
    assert subjects(follower) == ["new"]
