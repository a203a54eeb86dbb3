# SPDX-License-Identifier: Apache-2.0
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from contract import registry
from contract.database import aliases, changes, metadata
from contract.errors import DatabaseError
from contract.registry import TRANSITIONS, State


def publish(connection: sa.Connection, digest: str = "a" * 64, **fields: Any) -> registry.Version:
    base = {"alias": "triage", "engine": "local", "base": "base", "path": "/adapters/x", "manifest": {"base": "base"}}
    return registry.publish(connection, digest=digest, **(base | fields))


def bring_to(connection: sa.Connection, identifier: str, state: State) -> None:
    """Takes a published version to ``state`` by the shortest legal way."""
    ways: dict[State, list[State]] = {State.PUBLISHED: []}
    while state not in ways:
        for known in list(ways):
            for following in TRANSITIONS[known]:
                ways.setdefault(following, [*ways[known], following])
    for step in ways[state]:
        registry.advance(connection, identifier, step, "test")


def test_a_version_is_named_by_alias_and_digest_and_starts_published(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        version = publish(connection, "0123456789abcdef" * 4, parent="p", job="j")
        assert (version.id, version.state) == ("triage@0123456789ab", State.PUBLISHED)
        assert registry.get(connection, version.id) == version
        assert registry.all_versions(connection) == [version]
        assert registry.get(connection, "triage@none") is None


def test_publishing_the_same_adapter_again_is_the_version_that_is_there(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        first = publish(connection)
        registry.advance(connection, first.id, State.CANDIDATE, "loaded")
        again = publish(connection, path="/adapters/elsewhere", manifest={})
        assert (again.state, again.path, again.manifest) == (State.CANDIDATE, first.path, first.manifest)
        assert len(registry.all_versions(connection)) == 1


def test_another_adapter_never_takes_a_name_that_is_taken(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        publish(connection, "a" * 64)
        with pytest.raises(DatabaseError, match="triage@aaaaaaaaaaaa is already the adapter aaaa"):
            publish(connection, "a" * 12 + "b" * 52)


@pytest.mark.parametrize("before", State)
@pytest.mark.parametrize("after", State)
def test_only_the_moves_of_the_drawing_are_possible(engine: sa.Engine, before: State, after: State) -> None:
    with engine.begin() as connection:
        identifier = publish(connection).id
        bring_to(connection, identifier, before)
        if after in TRANSITIONS[before]:
            moved = registry.advance(connection, identifier, after, "because")
            assert (moved.state, moved.reason) == (after, "because")
        else:
            with pytest.raises(DatabaseError, match=f"{identifier} is {before}; it cannot become {after}"):
                registry.advance(connection, identifier, after, "because")
            current = registry.get(connection, identifier)
            assert current is not None and current.state == before


def test_the_drawing_is_the_table() -> None:
    drawing = registry.__doc__ or ""
    for before, following in TRANSITIONS.items():
        assert before.value in drawing
        for after in following:
            assert after.value in drawing, f"{before} to {after}"
    assert set(TRANSITIONS) == set(State)


def test_what_is_not_there_cannot_be_moved_or_pointed_at(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        with pytest.raises(DatabaseError, match="there is no version nobody@0"):
            registry.advance(connection, "nobody@0", State.LIVE, "")
        with pytest.raises(DatabaseError, match="there is no model nobody"):
            registry.point(connection, "nobody", None)


def test_an_alias_points_at_a_version_and_back_at_the_base(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(aliases.insert().values(name="triage", engine="local", version=None, changed_ns=0))
        identifier = publish(connection).id
        registry.point(connection, "triage", identifier)
        assert registry.all_aliases(connection) == [registry.Alias("triage", "local", identifier)]
        registry.point(connection, "triage", None)
        assert registry.all_aliases(connection) == [registry.Alias("triage", "local", None)]


def test_every_change_is_announced(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(aliases.insert().values(name="triage", engine="local", version=None, changed_ns=0))
        identifier = publish(connection).id
        registry.advance(connection, identifier, State.CANDIDATE, "")
        registry.point(connection, "triage", identifier)
        noted = [(row.topic, row.subject) for row in connection.execute(changes.select().order_by(changes.c.seq))]
    assert noted == [("versions", identifier), ("versions", identifier), ("aliases", "triage")]


class RegistryModel(RuleBasedStateMachine):
    """The registry against a dictionary: whatever is asked, in whatever order."""

    versions = Bundle("versions")

    @initialize()
    def empty(self) -> None:
        self.engine = sa.create_engine("sqlite://", poolclass=sa.pool.StaticPool)
        metadata.create_all(self.engine)
        self.states: dict[str, State] = {}

    @rule(target=versions, digest=st.sampled_from("abcdef"), alias=st.sampled_from(["x", "y"]))
    def publish(self, digest: str, alias: str) -> str:
        with self.engine.begin() as connection:
            identifier = publish(connection, digest * 64, alias=alias).id
        self.states.setdefault(identifier, State.PUBLISHED)
        return identifier

    @rule(identifier=versions, state=st.sampled_from(State))
    def advance(self, identifier: str, state: State) -> None:
        allowed = state in TRANSITIONS[self.states[identifier]]
        try:
            with self.engine.begin() as connection:
                registry.advance(connection, identifier, state, "why")
        except DatabaseError:
            assert not allowed
        else:
            assert allowed
            self.states[identifier] = state

    @invariant()
    def every_question_has_the_same_answer(self) -> None:
        with self.engine.begin() as connection:
            found = {version.id: version.state for version in registry.all_versions(connection)}
            loaded = {version.id for version in registry.all_versions(connection, states=registry.LOADED)}
            of_x = {version.id for version in registry.all_versions(connection, alias="x")}
        assert found == self.states
        assert loaded == {each for each, state in self.states.items() if state in registry.LOADED}
        assert of_x == {each for each in self.states if each.startswith("x@")}

    def teardown(self) -> None:
        self.engine.dispose()


RegistryModel.TestCase.settings = hypothesis_settings(max_examples=30, stateful_step_count=20, deadline=None)
TestRegistryModel = RegistryModel.TestCase
