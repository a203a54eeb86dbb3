# SPDX-License-Identifier: Apache-2.0
"""The servers of one engine: what each holds, how much work it has, and whether it can be trusted with more.

Which replica gets a request, among the healthy ones that hold its version: the one that is likely to have its prompt
in the prefix cache, as the same hash chose it last time, unless that one has clearly more work than another; then the
one with the least. (Consistent hashing with bounded loads: Mirrokni, Thorup and Zadimoghaddam, 2018.)

Health comes from real answers as well as from probes: a replica that fails `STRIKES` requests in a row gets none for a
while, longer each time, unless there is no other.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from hashlib import blake2b

import aiohttp

from contract.errors import EngineFailed, EngineTimeout, MillraceError
from gateway.asked import ENDPOINTS, Endpoint
from gateway.connection import Origin
from gateway.engines import EngineClient
from gateway.upstream import CONNECT_TIMEOUT, NoConnection

STRIKES = 3
_LONGEST_BENCH_SECONDS = 30.0
_SLACK = 4
"""Requests that the preferred replica may have more than twice the least."""


class Backend:
    """What answers requests for the versions that it holds, as this worker last saw it."""

    endpoints: Sequence[Endpoint] = ENDPOINTS
    """The routes whose requests may go here."""

    def __init__(self, name: str, served: frozenset[str] = frozenset(), healthy: bool = False) -> None:
        self.name = name
        self.served = served
        self.healthy = healthy
        self.outstanding = 0
        """Requests of this worker that it is answering."""
        self.strikes = 0
        """Requests that it failed in a row."""
        self.benched_until = 0.0
        """Loop time."""

    def holds(self, model: str) -> bool:
        """Whether a request for the model may go here."""
        return self.healthy and model in self.served

    def answered(self) -> None:
        """Learns from an answer that was one."""
        self.strikes = 0
        self.benched_until = 0.0

    def failed(self, error: MillraceError, now: float) -> None:
        """Learns from a request that it did not answer; where it was not reached, it gets nothing until it is seen."""
        if isinstance(error, NoConnection) or error.code == CONNECT_TIMEOUT:
            self.healthy = False
        elif isinstance(error, EngineFailed | EngineTimeout):
            self.strikes += 1
            if self.strikes >= STRIKES:
                self.benched_until = now + min(_LONGEST_BENCH_SECONDS, 2.0 ** min(self.strikes - STRIKES, 10))

    async def look(self) -> None:
        """Asks what it holds, where that may change."""


class Replica(Backend):
    """One server of an engine."""

    def __init__(
        self,
        name: str,
        client: EngineClient,
        origin: Origin,
        served: frozenset[str] = frozenset(),
        healthy: bool = False,
        outstanding: int = 0,
    ) -> None:
        super().__init__(name, served, healthy)
        self.client = client
        self.origin = origin
        self.outstanding = outstanding
        self._looking: asyncio.Task[None] | None = None
        self._heads: dict[str, bytes] = {}

    def request(self, path: str, request_id: str, body: bytes) -> bytes:
        """A request as it goes over the wire."""
        head = self._heads.get(path)
        if head is None:
            head = self._heads[path] = self.origin.head(path)
        return b"%b%b\r\nContent-Length: %d\r\n\r\n%b" % (head, request_id.encode(), len(body), body)

    async def look(self) -> None:
        """Asks the replica what it holds; callers at the same time share one question."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        await asyncio.shield(self._looking)

    async def _look(self) -> None:
        try:
            self.served, self.healthy = await self.client.models(), True
        except NoConnection:
            self.healthy = False


def replica_of(name: str, url: str, session: aiohttp.ClientSession) -> Replica:
    """A replica by its base URL."""
    return Replica(name, EngineClient(session, url), Origin.of(url))


def choose(
    replicas: Sequence[Backend], model: str, tried: Collection[Backend], prefix: Callable[[], bytes], now: float
) -> Backend | None:
    """The replica for a request, or None where no healthy one that holds the model is left.

    ``prefix`` gives what requests with the same beginning have in common.
    """
    if len(replicas) == 1:
        only = replicas[0]
        return only if only.holds(model) and only not in tried else None
    able = [replica for replica in replicas if replica.holds(model) and replica not in tried]
    if len(able) < 2:
        return able[0] if able else None
    able = [replica for replica in able if replica.benched_until <= now] or able
    key = prefix()
    preferred = max(able, key=lambda replica: blake2b(key, digest_size=8, key=replica.name.encode()[:64]).digest())
    least = min(able, key=lambda replica: replica.outstanding)
    return preferred if preferred.outstanding <= 2 * least.outstanding + _SLACK else least


class RetryBudget:
    """How many requests an engine may be sent again: a share of those that come, so that retries double no overload."""

    def __init__(self, share: float, most: float = 20.0) -> None:
        self._share = share
        self._most = most
        self._left = most

    def earn(self) -> None:
        """A request has come."""
        self._left = min(self._most, self._left + self._share)

    def spend(self) -> bool:
        """Whether one may be sent again; if so, it is counted."""
        if self._left < 1:
            return False
        self._left -= 1
        return True
