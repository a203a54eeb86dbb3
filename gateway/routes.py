# SPDX-License-Identifier: Apache-2.0
"""Public name -> immutable version -> a replica that holds it.

What names mean is a `Snapshot` of the control database, replaced whole when the changes feed moves. What replicas
hold is seen from their own list of models, asked about once a second and again at once when a request finds nobody.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

import aiohttp
import sqlalchemy as sa

from contract import registry
from contract.errors import EngineUnavailable, MillraceError, ModelNotFound
from contract.registry import Alias, Version
from contract.settings import Settings
from gateway.asked import Endpoint
from gateway.replicas import Backend, RetryBudget, choose, replica_of

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
    priced: str
    """The public name whose price holds: that of a fallback where one answers."""


@dataclass(frozen=True)
class Snapshot:
    """What every name means, at one moment."""

    aliases: Mapping[str, Alias]
    versions: Mapping[str, Version]
    """Those that replicas hold or are to hold."""
    bases: Mapping[str, str]
    """Engine -> name under which it serves its base weights."""
    provided: Mapping[str, str] = field(default_factory=dict)
    """Public name -> the model of its provider."""
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

    def known(self, name: str) -> Target | None:
        """What `resolve` has found before."""
        return self._resolved.get(name)

    def _resolve(self, name: str) -> Target:
        version, alias = self.versions.get(name), self.aliases.get(name)
        if version is not None:
            target = Target(name, version.alias, version.id, version.engine, version.alias)
        elif alias is not None:
            base = self.provided.get(name) or self.bases.get(alias.engine, "")
            target = Target(name, name, alias.version or base, alias.engine, name)
        else:
            raise ModelNotFound(f"there is no model {name!r} here; GET /v1/models lists what there is", param="model")
        if target.engine not in self.bases and name not in self.provided:
            raise EngineUnavailable(f"the engine {target.engine} of {name} is not in the settings", retry_after=30.0)
        return target


def read_snapshot(connection: sa.Connection, settings: Settings) -> Snapshot:
    """The names as the database has them."""
    aliases = {alias.name: alias for alias in registry.all_aliases(connection)}
    return Snapshot(
        aliases=aliases,
        versions={version.id: version for version in registry.all_versions(connection, states=registry.LOADED)},
        bases={engine.name: engine.base_model for engine in settings.engines},
        provided={
            name: model.model
            for name, model in settings.models.items()
            if model.model is not None and name in aliases and aliases[name].engine == model.provider
        },
    )


class Routes:
    """The names and the replicas of one worker."""

    def __init__(
        self,
        settings: Settings,
        snapshot: Snapshot,
        session: aiohttp.ClientSession,
        providers: Iterable[Backend] = (),
    ) -> None:
        self.snapshot = snapshot
        self.replicas: dict[str, list[Backend]] = {
            engine.name: [
                replica_of(f"{engine.name}-{number}", url, session) for number, url in enumerate(engine.base_urls)
            ]
            for engine in settings.engines
        }
        self.replicas |= {provider.name: [provider] for provider in providers}
        self._fallbacks = {name: model.fallbacks for name, model in settings.models.items() if model.fallbacks}
        self.retries = RetryBudget(settings.gateway.retry_share)
        self._now = asyncio.get_running_loop().time

    def known(self, target: Target, tried: Collection[Backend], prefix: Callable[[], bytes]) -> Backend | None:
        """A healthy replica that is known to hold the target's version, and was not tried yet."""
        return choose(self.replicas[target.engine], target.version, tried, prefix, self._now())

    async def found(self, target: Target, tried: Collection[Backend], prefix: Callable[[], bytes]) -> Backend:
        """Such a replica, after asking every one again.

        Raises:
            EngineUnavailable: there is none.
        """
        rest = [replica for replica in self.replicas[target.engine] if replica not in tried]
        await asyncio.gather(*(replica.look() for replica in rest))
        found = self.known(target, tried, prefix)
        if found is None:
            state = "holds this model" if any(replica.healthy for replica in rest) else "answers"
            raise EngineUnavailable(
                f"no replica of the engine behind {target.asked} {state} right now", retry_after=1.0
            )
        return found

    def others(self, target: Target, tried: Collection[Backend]) -> bool:
        """Whether the target's engine has a replica that was not tried."""
        return len(tried) < len(self.replicas[target.engine])

    def again(self, target: Target) -> Target:
        """What the target's name means by now.

        Raises:
            ModelNotFound, EngineUnavailable: as `Snapshot.resolve`.
        """
        fresh = self.snapshot.resolve(target.asked if target.priced == target.alias else target.priced)
        return replace(fresh, asked=target.asked, alias=target.alias)

    def fallbacks(self, target: Target, endpoint: Endpoint) -> Iterator[Target]:
        """What answers on a route where the target cannot, in order; asked for and logged under the same name.

        Each is to be tried as it is given. On an engine that has failed the request it is a retry, and paid as one; on
        another it adds nothing to the trouble.
        """
        failed = {target.engine}
        for name in self._fallbacks.get(target.alias, ()):
            with suppress(ModelNotFound, EngineUnavailable):
                other = self.snapshot.resolve(name)
                able = all(endpoint in backend.endpoints for backend in self.replicas[other.engine])
                if able and (other.engine not in failed or self.retries.spend()):
                    failed.add(other.engine)
                    yield replace(other, asked=target.asked, alias=target.alias)

    def failed(self, replica: Backend, error: MillraceError) -> None:
        """Learns from a request that a replica did not answer."""
        replica.failed(error, self._now())

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
