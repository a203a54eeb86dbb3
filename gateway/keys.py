# SPDX-License-Identifier: Apache-2.0
"""Keys: a secret is shown once, kept as its SHA-256, and found in memory.

A `KeyRing` is an immutable picture of the table; a worker reads a new one when the `keys` topic of the changes feed
moves, so a revoked key stops working on every worker within half a second.
"""

import hashlib
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from contract import changes
from contract.database import keys, projects
from contract.errors import AuthenticationFailed, DatabaseError
from contract.ids import new_id
from gateway.bank import read_limits
from gateway.quota import Limit

SECRET_PREFIX = "mr-"
MAX_SEEN = 131072
"""Headers that a ring remembers; spellings of one key that differ in blanks are remembered apart."""
_SHOWN = len(SECRET_PREFIX) + 6


@dataclass(frozen=True)
class Key:
    """What is known of a key; never the secret."""

    id: str
    project: str
    name: str
    prefix: str
    created_ns: int
    expires_ns: int | None
    revoked_ns: int | None
    limits: tuple[Limit, ...] = ()
    """Its own and its project's."""


@dataclass(frozen=True)
class NewKey:
    """A key at its birth, the only moment at which its secret exists outside the client."""

    id: str
    secret: str


class KeyRing:
    """Every key by the digest of its secret."""

    def __init__(self, by_digest: Mapping[str, Key]) -> None:
        self._by_digest = by_digest
        self._seen: dict[str, Key] = {}
        """Headers that named a key: the digest of a secret is computed once. As short-lived as the ring."""

    def authenticate(self, authorization: str | None, now_ns: int) -> Key:
        """The key in an ``Authorization`` header.

        Raises:
            AuthenticationFailed: there is none, or it is unknown, revoked or expired.
        """
        key = self._seen.get(authorization or "")
        if key is None:
            key = self._find(authorization)
        if key.revoked_ns is not None:
            raise AuthenticationFailed(f"the API key {key.prefix}… was revoked")
        if key.expires_ns is not None and key.expires_ns <= now_ns:
            raise AuthenticationFailed(f"the API key {key.prefix}… has expired")
        return key

    def _find(self, authorization: str | None) -> Key:
        if authorization is None:
            raise AuthenticationFailed("no API key was given; send `Authorization: Bearer <key>`")
        scheme, _, secret = authorization.partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise AuthenticationFailed("the Authorization header must read `Bearer <key>`")
        key = self._by_digest.get(digest_of(secret.strip()))
        if key is None:
            raise AuthenticationFailed("this API key is not known here; `millrace keys create` makes one")
        if len(self._seen) < MAX_SEEN:
            self._seen[authorization] = key
        return key


def read_ring(connection: sa.Connection) -> KeyRing:
    """The ring as the database has it."""
    limits = read_limits(connection)
    return KeyRing({row.digest: _key(row, limits) for row in connection.execute(keys.select())})


def create_key(
    connection: sa.Connection,
    project: str,
    name: str,
    expires_ns: int | None = None,
    now_ns: Callable[[], int] = time.time_ns,
    random: Callable[[], str] = lambda: secrets.token_urlsafe(32),
) -> NewKey:
    """A new key of ``project``.

    Raises:
        DatabaseError: there is no such project, or the key would be expired from the start.
    """
    if connection.scalar(sa.select(projects.c.id).where(projects.c.id == project)) is None:
        raise DatabaseError(f"there is no project {project!r}")
    if expires_ns is not None and expires_ns <= now_ns():
        raise DatabaseError(f"expires_ns {expires_ns} is in the past")
    identifier, secret = new_id("key", now_ns), SECRET_PREFIX + random()
    row = {
        "id": identifier, "project": project, "name": name, "prefix": secret[:_SHOWN], "digest": digest_of(secret),
        "created_ns": now_ns(), "expires_ns": expires_ns,
    }  # fmt: skip
    connection.execute(keys.insert().values(row))
    changes.note(connection, "keys", identifier, now_ns)
    return NewKey(identifier, secret)


def revoke_key(connection: sa.Connection, identifier: str, now_ns: Callable[[], int] = time.time_ns) -> None:
    """Ends a key for good; a key that is revoked already stays as it is.

    Raises:
        DatabaseError: there is no such key.
    """
    row = connection.execute(keys.select().where(keys.c.id == identifier)).one_or_none()
    if row is None:
        raise DatabaseError(f"there is no key {identifier!r}")
    if row.revoked_ns is None:
        connection.execute(keys.update().where(keys.c.id == identifier).values(revoked_ns=now_ns()))
        changes.note(connection, "keys", identifier, now_ns)


def list_keys(connection: sa.Connection, project: str | None = None) -> list[Key]:
    """Keys, oldest first."""
    query = keys.select().order_by(keys.c.created_ns, keys.c.id)
    rows: Iterable[sa.Row[tuple[object, ...]]] = connection.execute(
        query if project is None else query.where(keys.c.project == project)
    )
    limits = read_limits(connection)
    return [_key(row, limits) for row in rows]


def digest_of(secret: str) -> str:
    """How a key is kept: SHA-256, in hex."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def _key(row: "sa.Row[tuple[object, ...]]", limits: Mapping[tuple[str, str], tuple[Limit, ...]]) -> Key:
    values = row._asdict()
    del values["digest"]
    its_own, its_project = limits.get(("key", values["id"]), ()), limits.get(("project", values["project"]), ())
    return Key(**values, limits=its_own + its_project)
