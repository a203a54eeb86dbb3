# SPDX-License-Identifier: Apache-2.0
"""Public name -> immutable version -> a replica that holds it.

What names mean is a `Snapshot` of the control database, replaced whole when the changes feed moves. What replicas
hold is seen from their own list of models, asked about once a second and again at once when a request finds nobody.
"""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import aiohttp
import sqlalchemy as sa

from contract import registry
from contract.errors import EngineUnavailable, MillraceError, ModelNotFound
from contract.registry import Alias, Version
from contract.settings import Settings
from gateway.engines import EngineClient
from gateway.upstream import NoConnection, Origin

LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Target:
    """What one request will be answered by."""

    asked: str
    """As the client wrote it; the answer's ``model``."""
    alias: str
    """The public name that it is logged and billed under."""
    version: str
    """Immutable version, or the base model's name: what the engine knows it by."""
    engine: str


@dataclass(frozen=True)
class Snapshot:
    """What every name means, at one moment."""

    aliases: Mapping[str, Alias]
    versions: Mapping[str, Version]
    """Those that replicas hold or are to hold."""
    bases: Mapping[str, str]
    """Engine -> name under which it serves its base weights."""
    _resolved: dict[str, Target] = field(default_factory=dict, compare=False, repr=False)

    def resolve(self, name: str) -> Target:
        """What answers for a public name, or for the id of a loaded version.

        Raises:
            ModelNotFound: there is no such name.
            EngineUnavailable: its engine is not in this process's settings.
        """
        target = self._resolved.get(name)
        if target is None:
            target = self._resolved[name] = self._resolve(name)
        return target

    def _resolve(self, name: str) -> Target:
        version, alias = self.versions.get(name), self.aliases.get(name)
        if version is not None:
            target = Target(name, version.alias, version.id, version.engine)
        elif alias is not None:
            target = Target(name, name, alias.version or self.bases.get(alias.engine, ""), alias.engine)
        else:
            raise ModelNotFound(f"there is no model {name!r} here; GET /v1/models lists what there is", param="model")
        if target.engine not in self.bases:
            raise EngineUnavailable(f"the engine {target.engine} of {name} is not in the settings", retry_after=30.0)
        return target


def read_snapshot(connection: sa.Connection, settings: Settings) -> Snapshot:
    """The names as the database has them."""
    return Snapshot(
        aliases={alias.name: alias for alias in registry.all_aliases(connection)},
        versions={version.id: version for version in registry.all_versions(connection, states=registry.LOADED)},
        bases={engine.name: engine.base_model for engine in settings.engines},
    )


@dataclass
class Replica:
    """One server of an engine, as this worker last saw it."""

    name: str
    client: EngineClient
    origin: Origin
    served: frozenset[str] = frozenset()
    healthy: bool = False
    looking: "asyncio.Task[None] | None" = field(default=None, repr=False)
    _heads: dict[str, bytes] = field(default_factory=dict, repr=False)

    def request(self, path: str, request_id: str, body: bytes) -> bytes:
        """A request as it goes over the wire."""
        head = self._heads.get(path)
        if head is None:
            head = self._heads[path] = self.origin.head(path)
        return b"%b%b\r\nContent-Length: %d\r\n\r\n%b" % (head, request_id.encode(), len(body), body)

    def holds(self, model: str) -> bool:
        """Whether a request for the model may go here."""
        return self.healthy and model in self.served

    def saw(self, error: MillraceError) -> None:
        """Learns from a real answer: a replica that was not reached gets nothing until it is seen again."""
        if isinstance(error, NoConnection):
            self.healthy = False

    async def look(self) -> None:
        """Asks the replica what it holds; callers at the same time share one question."""
        if self.looking is None or self.looking.done():
            self.looking = asyncio.create_task(self._look())
        await asyncio.shield(self.looking)

    async def _look(self) -> None:
        try:
            self.served, self.healthy = await self.client.models(), True
        except NoConnection:
            self.healthy = False


class Routes:
    """The names and the replicas of one worker."""

    def __init__(self, settings: Settings, snapshot: Snapshot, session: aiohttp.ClientSession) -> None:
        self.snapshot = snapshot
        self.replicas: dict[str, list[Replica]] = {
            engine.name: [replica_of(f"{engine.name}-0", engine.base_url, session)] for engine in settings.engines
        }

    async def pick(self, target: Target, tried: Collection[str] = ()) -> Replica:
        """A healthy replica that holds the target's version and was not tried yet.

        Raises:
            EngineUnavailable: there is none, also after asking every replica again.
        """
        for replica in self.replicas[target.engine]:
            if replica.holds(target.version) and replica.name not in tried:
                return replica
        candidates = [replica for replica in self.replicas[target.engine] if replica.name not in tried]
        for again in (False, True):
            for replica in candidates:
                if again:
                    await replica.look()
                if replica.holds(target.version):
                    return replica
        state = "holds this model" if any(replica.healthy for replica in candidates) else "answers"
        raise EngineUnavailable(f"no replica of the engine behind {target.asked} {state} right now", retry_after=1.0)

    async def watch(self) -> None:
        """Keeps looking at every replica, until it is cancelled."""
        while True:
            await asyncio.gather(*(replica.look() for replicas in self.replicas.values() for replica in replicas))
            await asyncio.sleep(LOOK_SECONDS)

    def ready(self) -> bool:
        """Whether at least one public name can be answered."""
        return any(self.answers(name) for name in self.snapshot.aliases)

    def answers(self, name: str) -> bool:
        """Whether a replica holds what answers for a public name."""
        try:
            target = self.snapshot.resolve(name)
        except EngineUnavailable:
            return False
        return any(replica.holds(target.version) for replica in self.replicas[target.engine])


def replica_of(name: str, url: str, session: aiohttp.ClientSession) -> Replica:
    """A replica by its base URL."""
    return Replica(name, EngineClient(session, url), Origin.of(url))
