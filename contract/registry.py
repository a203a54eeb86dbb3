# SPDX-License-Identifier: Apache-2.0
"""The registry of versions: what was trained, and which of it answers under which public name.

    published ──> candidate ──> canary ──> live ──> draining ──> retired
        │             │            │         ▲          │           │
        └─> retired   ├─> live     └─> draining         └─> live    └─> candidate
                      └─> retired

The trainer writes the first state, rollout the rest. A version is immutable: the same id is always the same bytes.
"""

import enum
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from contract import changes
from contract.database import aliases, versions
from contract.errors import DatabaseError

DIGEST_DIGITS = 12


class State(enum.StrEnum):
    """Where a version stands."""

    PUBLISHED = "published"
    CANDIDATE = "candidate"
    CANARY = "canary"
    LIVE = "live"
    DRAINING = "draining"
    RETIRED = "retired"


TRANSITIONS: dict[State, frozenset[State]] = {
    State.PUBLISHED: frozenset({State.CANDIDATE, State.RETIRED}),
    State.CANDIDATE: frozenset({State.CANARY, State.LIVE, State.RETIRED}),
    State.CANARY: frozenset({State.LIVE, State.DRAINING}),
    State.LIVE: frozenset({State.DRAINING}),
    State.DRAINING: frozenset({State.LIVE, State.RETIRED}),
    State.RETIRED: frozenset({State.CANDIDATE}),
}
LOADED = frozenset({State.CANDIDATE, State.CANARY, State.LIVE, State.DRAINING})
"""States in which every replica must hold the version."""


@dataclass(frozen=True)
class Version:
    """One immutable adapter under one public name."""

    id: str
    alias: str
    engine: str
    base: str
    digest: str
    path: str
    parent: str | None
    job: str | None
    manifest: dict[str, Any]
    state: State
    reason: str
    created_ns: int
    changed_ns: int


@dataclass(frozen=True)
class Alias:
    """A public model name and what answers under it; ``version`` None means the engine's base model."""

    name: str
    engine: str
    version: str | None


def version_id(alias: str, digest: str) -> str:
    """``alias@digest12``."""
    return f"{alias}@{digest[:DIGEST_DIGITS]}"


def publish(
    connection: sa.Connection,
    *,
    alias: str,
    engine: str,
    base: str,
    digest: str,
    path: str,
    manifest: dict[str, Any],
    parent: str | None = None,
    job: str | None = None,
    now_ns: Callable[[], int] = time.time_ns,
) -> Version:
    """Adds a version in state ``published``; the same adapter published again is the version that is there.

    Raises:
        DatabaseError: another adapter has the same first digits of its digest.
    """
    identifier = version_id(alias, digest)
    known = connection.execute(versions.select().where(versions.c.id == identifier)).one_or_none()
    if known is not None:
        if known.digest != digest:
            raise DatabaseError(f"{identifier} is already the adapter {known.digest}; {digest} cannot take its name")
        return _version(known)
    now = now_ns()
    row = {
        "id": identifier, "alias": alias, "engine": engine, "base": base, "digest": digest, "path": path,
        "parent": parent, "job": job, "manifest": manifest, "state": State.PUBLISHED.value,
        "reason": "published", "created_ns": now, "changed_ns": now,
    }  # fmt: skip
    connection.execute(versions.insert().values(row))
    changes.note(connection, "versions", identifier, now_ns)
    return _version(connection.execute(versions.select().where(versions.c.id == identifier)).one())


def advance(
    connection: sa.Connection, identifier: str, state: State, reason: str, now_ns: Callable[[], int] = time.time_ns
) -> Version:
    """Moves a version to ``state``.

    Raises:
        DatabaseError: there is no such version, or the move is not one of `TRANSITIONS`.
    """
    current = get(connection, identifier)
    if current is None:
        raise DatabaseError(f"there is no version {identifier}")
    if state not in TRANSITIONS[current.state]:
        raise DatabaseError(f"{identifier} is {current.state}; it cannot become {state}")
    values = {"state": state.value, "reason": reason, "changed_ns": now_ns()}
    connection.execute(versions.update().where(versions.c.id == identifier).values(values))
    changes.note(connection, "versions", identifier, now_ns)
    moved = get(connection, identifier)
    assert moved is not None
    return moved


def point(connection: sa.Connection, alias: str, version: str | None, now_ns: Callable[[], int] = time.time_ns) -> None:
    """Makes ``alias`` answer with ``version``, or with the engine's base model where it is None.

    Raises:
        DatabaseError: there is no such alias.
    """
    moved = connection.execute(
        aliases.update().where(aliases.c.name == alias).values(version=version, changed_ns=now_ns())
    )
    if moved.rowcount != 1:
        raise DatabaseError(f"there is no model {alias}")
    changes.note(connection, "aliases", alias, now_ns)


def get(connection: sa.Connection, identifier: str) -> Version | None:
    """The version of that id."""
    row = connection.execute(versions.select().where(versions.c.id == identifier)).one_or_none()
    return None if row is None else _version(row)


def all_versions(
    connection: sa.Connection, *, alias: str | None = None, states: Collection[State] | None = None
) -> list[Version]:
    """Versions, oldest first."""
    query = versions.select().order_by(versions.c.created_ns, versions.c.id)
    if alias is not None:
        query = query.where(versions.c.alias == alias)
    if states is not None:
        query = query.where(versions.c.state.in_([state.value for state in states]))
    return [_version(row) for row in connection.execute(query)]


def all_aliases(connection: sa.Connection) -> list[Alias]:
    """Every public name, sorted."""
    rows = connection.execute(aliases.select().order_by(aliases.c.name))
    return [Alias(row.name, row.engine, row.version) for row in rows]


def _version(row: sa.Row[Any]) -> Version:
    return Version(**{**row._asdict(), "state": State(row.state)})
