# SPDX-License-Identifier: Apache-2.0
"""The reconciler: brings what engines hold, and what public names mean, in line with the registry.

It runs in every worker; the one that holds the lease acts. Once a second, top to bottom:

1. a version in a loaded state that a replica does not hold (it restarted) is loaded there again;
2. a version published and admitted is loaded on every replica, seen in its list of models, and asked for one token:
   then it is a candidate; where an engine that is well refuses it, it is retired with the engine's reason and no name
   moves;
3. a candidate goes live, its public name points at it and its predecessor drains, in one transaction;
4. a version that has drained is unloaded everywhere and retired.

A request on its way during step 3 is answered by whichever version its worker saw; both are loaded. After
`DRAIN_SECONDS` every worker has seen the change, and an engine that unloads a name finishes what it has begun under it.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import aiohttp
import orjson
import sqlalchemy as sa

from contract import leases, registry
from contract.database import reading
from contract.errors import AdapterRefused, DatabaseError, MillraceError
from contract.ids import new_id
from contract.money import NANO
from contract.records import Decision
from contract.registry import State, Version
from contract.settings import Settings
from gateway.adapters import publish_declared
from gateway.engines import EngineClient
from gateway.metrics import SWAP, Metrics
from gateway.upstream import NoConnection
from logger.spool import Spool

LEASE = "reconciler"
LEASE_SECONDS = 15.0
REFUSALS = 3
"""How often an engine that is well must refuse a version before it is given up: it may be well again since a moment."""
STEP_SECONDS = 1.0
DRAIN_SECONDS = 2.0
"""Four times what a worker may be behind the changes feed."""
_log = logging.getLogger(__name__)


class LeaseLost(Exception):
    """Another process is the reconciler now."""


class Reconciler:
    """The loop, in one worker."""

    def __init__(
        self,
        settings: Settings,
        database: sa.Engine,
        session: aiohttp.ClientSession,
        spool: Spool,
        holder: str,
        metrics: Metrics,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """``holder`` names this process in the lease."""
        self._settings = settings
        self._database = database
        self._replicas = {
            engine.name: [EngineClient(session, url) for url in engine.base_urls] for engine in settings.engines
        }
        self._spool = spool
        self._holder = holder
        self._metrics = metrics
        self._now_ns = now_ns
        self._declared = False
        self._refusals: Counter[str] = Counter()

    async def run(self) -> None:
        """Steps once a second while it holds the lease, until it is cancelled; gives the lease back then."""
        try:
            while True:
                try:
                    if await asyncio.to_thread(self._hold):
                        await self.step()
                except LeaseLost:
                    _log.warning("another process took the lease of the reconciler over")
                except (MillraceError, sa.exc.SQLAlchemyError, OSError):
                    _log.exception("a step of the reconciler failed; it goes on with the next")
                await asyncio.sleep(STEP_SECONDS)
        finally:
            with self._database.begin() as connection:
                leases.release(connection, LEASE, self._holder)

    async def step(self) -> None:
        """Everything that is to be done now.

        Raises:
            LeaseLost: another process is to go on.
        """
        if not self._declared:
            await asyncio.to_thread(self._publish_declared)
            self._declared = True
        versions = await asyncio.to_thread(self._versions)
        for version in versions:
            if version.state in registry.LOADED:
                await self._keep(version)
        for version in versions:
            if version.state is State.PUBLISHED and _admitted(version):
                await self._introduce(version)
            elif version.state is State.CANDIDATE:
                await self._promote(version, started=None)
            elif version.state is State.DRAINING:
                await self._retire_drained(version)

    async def _keep(self, version: Version) -> None:
        """Loads the version on replicas that lost it; one that does not answer now gets it when it does."""
        for client in self._clients(version):
            try:
                if version.id not in await client.models():
                    await client.load(version.id, version.path)
                    self._decide("load", version, "the replica did not hold it any more", {})
            except NoConnection:
                continue
            except AdapterRefused as error:
                _log.error("%s cannot be loaded again: %s", version.id, error)

    async def _introduce(self, version: Version) -> None:
        """From published to live."""
        started, clients = time.perf_counter(), self._clients(version)
        if not clients:
            return  # its engine is in another gateway's settings
        try:
            tokens = [await self._load(client, version) for client in clients]
        except NoConnection as error:
            _log.warning("%s waits for its engine: %s", version.id, error)
            return  # the engine's fault, not the version's: again at the next step
        except AdapterRefused as error:
            self._refusals[version.id] += 1
            if self._refusals[version.id] < REFUSALS:
                _log.warning("%s is tried again: %s", version.id, error)
            else:
                await self._give_up(version, error.message)
            return
        figures = {"replicas": len(clients), "seconds": time.perf_counter() - started, "probe_tokens": sum(tokens)}
        reason = "every replica holds it and answered with it"
        await asyncio.to_thread(self._move, version, State.CANDIDATE, reason)
        self._decide("load", version, reason, figures)
        await self._promote(version, started)

    async def _load(self, client: EngineClient, version: Version) -> int:
        """Loads, looks and probes on one replica; tokens that the probe wrote."""
        if version.id not in await client.models():
            await client.load(version.id, version.path)
        if version.id not in await client.models():
            raise AdapterRefused(f"the engine took {version.id} and does not list it")
        return await client.probe(version.id)

    async def _promote(self, version: Version, started: float | None) -> None:
        try:
            before = await asyncio.to_thread(self._flip, version)
        except DatabaseError as error:
            await self._give_up(version, error.message)
            return
        figures = {"previous": before, **version.manifest.get("gate", {}).get("figures", {})}
        if started is not None:
            figures["swap_seconds"] = time.perf_counter() - started
            self._metrics.observe(SWAP, (version.alias,), figures["swap_seconds"])
        reason = version.manifest.get("gate", {}).get("reason", "admitted")
        self._decide("promote", version, f"it is loaded everywhere, and the gate said: {reason}", figures)

    async def _retire_drained(self, version: Version) -> None:
        waited = (self._now_ns() - version.changed_ns) / NANO
        if waited < DRAIN_SECONDS:
            return
        try:
            for client in self._clients(version):
                await client.unload(version.id)
        except NoConnection:
            return  # a replica that comes back may still hold it: again at the next step
        reason = "its successor answers, and it is unloaded"
        await asyncio.to_thread(self._move, version, State.RETIRED, reason)
        self._decide("retire", version, reason, {"drained_seconds": waited})

    async def _give_up(self, version: Version, reason: str) -> None:
        # First, as it raises where another process is the reconciler now, and may have brought this version live.
        await asyncio.to_thread(self._move, version, State.RETIRED, reason)
        self._decide("retire", version, reason, {})
        for client in self._clients(version):
            try:
                await client.unload(version.id)
            except NoConnection:
                continue  # a replica that went away forgets by itself
        _log.error("%s is retired: %s", version.id, reason)

    def _clients(self, version: Version) -> list[EngineClient]:
        return self._replicas.get(version.engine, [])

    def _versions(self) -> list[Version]:
        with reading(self._database) as connection:
            return registry.all_versions(connection, states=registry.LOADED | {State.PUBLISHED})

    def _hold(self) -> bool:
        with self._database.begin() as connection:
            return leases.hold(connection, LEASE, self._holder, LEASE_SECONDS)

    def _still_hold(self, connection: sa.Connection) -> None:
        if not leases.hold(connection, LEASE, self._holder, LEASE_SECONDS):
            raise LeaseLost

    def _publish_declared(self) -> None:
        with self._database.begin() as connection:
            publish_declared(connection, self._settings)

    def _move(self, version: Version, state: State, reason: str) -> None:
        with self._database.begin() as connection:
            self._still_hold(connection)
            registry.advance(connection, version.id, state, reason)

    def _flip(self, version: Version) -> list[str]:
        """The one moment at which a public name changes its meaning; the versions that drain from now on."""
        with self._database.begin() as connection:
            self._still_hold(connection)
            aliases = {alias.name: alias for alias in registry.all_aliases(connection)}
            if version.alias not in aliases or aliases[version.alias].engine != version.engine:
                raise DatabaseError(f"there is no model {version.alias} on engine {version.engine}")
            before = registry.all_versions(connection, alias=version.alias, states=[State.LIVE])
            registry.advance(connection, version.id, State.LIVE, "it answers under its public name")
            registry.point(connection, version.alias, version.id)
            for old in before:
                registry.advance(connection, old.id, State.DRAINING, f"{version.id} answers now")
            return [old.id for old in before]

    def _decide(self, action: str, version: Version, reason: str, figures: dict[str, Any]) -> None:
        self._spool.append(
            Decision(
                id=new_id("dec"), time=self._now_ns(), action=action, subject=version.id, reason=reason,
                figures=orjson.dumps(figures).decode(), alias=version.alias,
            )
        )  # fmt: skip


def _admitted(version: Version) -> bool:
    return version.manifest.get("gate", {}).get("admitted") is True
