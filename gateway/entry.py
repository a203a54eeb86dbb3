# SPDX-License-Identifier: Apache-2.0
"""One invocation's way into the spool: opened before a stream's first byte, closed exactly once however it ends."""

import time
from collections.abc import Callable

import orjson

from contract.money import NANO
from contract.prices import PriceBook
from contract.records import Invocation, Status
from contract.settings import PayloadPolicy
from gateway.asked import Asked
from gateway.keys import Key
from gateway.quota import Hold, Need
from gateway.replicas import Backend
from gateway.routes import Target
from gateway.upstream import Stopwatch
from gateway.usage import Meter, Usage
from logger.spool import Spool

FREE = frozenset({Status.FAILED, Status.REFUSED})
"""Ends that cost nothing: what went wrong was ours, or nothing was done."""
_FAR = 2**53
"""Seconds that no engine's clock has reached."""


class Entry:
    """What becomes the record of one request; filled in along its way."""

    def __init__(
        self,
        invocation: str,
        key: Key,
        endpoint: str,
        policy: PayloadPolicy,
        clock: Callable[[], int] = time.perf_counter_ns,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.invocation = invocation
        self.key = key
        self.endpoint = endpoint
        self.asked = ""
        self.request: Asked | None = None
        self.target: Target | None = None
        self.replica: Backend | None = None
        self.attempts = 0
        self.watch = Stopwatch(clock)
        self.meter = Meter(payload=policy.payload == "on")
        self.closed = False
        self.hold: Hold | None = None
        """What it has reserved of the limits of its key."""
        self._policy = policy
        self._clock = clock
        self._arrived = clock()
        self._time = now_ns()
        self._queue_ns: int | None = None
        self._first_byte_ns: int | None = None

    @property
    def elapsed_ns(self) -> int:
        """Nanoseconds since the request arrived."""
        return self._clock() - self._arrived

    @property
    def model_label(self) -> str:
        """The public name for metrics: only names that exist."""
        return self.target.alias if self.target is not None else "unknown"

    @property
    def usage(self) -> Usage:
        """What the answer has used so far."""
        assert self.request is not None, "a request that went upstream was understood"
        return self.meter.usage(len(self.request.prompt), self.request.n)

    def cost_so_far(self, prices: PriceBook) -> int:
        """Nano-dollars of what the answer has used so far."""
        return self._cost(self.usage, prices)[0]

    def goes_upstream(self, replica: Backend) -> None:
        """Notes an attempt; what an earlier one metered is no part of this answer."""
        self.replica = replica
        self.attempts += 1
        if self.attempts > 1:
            self.forget_answer()
        if self._queue_ns is None:
            self._queue_ns = self.elapsed_ns

    def forget_answer(self) -> None:
        """What was metered so far is no part of the answer."""
        self.meter = Meter(payload=self._policy.payload == "on")

    def first_byte(self) -> int:
        """Notes that the answer begins now; nanoseconds since arrival."""
        self._first_byte_ns = self.elapsed_ns
        return self._first_byte_ns

    def open(self, spool: Spool) -> None:
        """Puts an open entry into the spool: if this process dies, the next one reports the request as interrupted.

        Raises:
            StorageFull: it does not fit.
        """
        spool.append(self._record(Status.OPEN, None, None, None))

    def close(
        self, prices: PriceBook, status: Status, http_status: int | None, error_code: str | None = None
    ) -> Invocation:
        """The record of how it ended, for the spool; what was reserved for it is settled."""
        record = self._record(status, http_status, error_code, prices)
        if self.hold is not None:
            tokens = (record.prompt_tokens or 0) + (record.completion_tokens or 0)
            self.hold.settle(Need(min(self.attempts, 1), tokens, record.cost or 0))
        return record

    def _record(
        self, status: Status, http_status: int | None, error_code: str | None, prices: PriceBook | None
    ) -> Invocation:
        request, target, meter, policy = self.request, self.target, self.meter, self._policy
        payload, ended = policy.payload == "on", status is not Status.OPEN
        answered, whole = meter.started, status is Status.COMPLETE
        usage: Usage | None = None
        cost = price_version = None
        if self.watch.reached and status is not Status.REFUSED and (answered or status is not Status.FAILED):
            # Not of an engine that never began: what it did is unknown, and it is free.
            usage = self.usage
            if prices is not None:
                cost, price_version = self._cost(usage, prices)
                cost = 0 if status in FREE else cost
        elapsed = self.elapsed_ns if ended else None
        return Invocation(
            id=self.invocation,
            time=self._time,
            project=self.key.project,
            key=self.key.id,
            endpoint=self.endpoint,
            status=status,
            alias=target.alias if target else self.asked,
            version=target.version if target else "",
            replica=self.replica.name if self.replica else "",
            attempts=self.attempts,
            stream=request is not None and request.stream,
            user=request.user if request else None,
            conversation=request.conversation if request and request.metadata else None,
            metadata=orjson.dumps(request.metadata).decode() if request and request.metadata is not None else None,
            parameters=request.parameters.decode() if request else None,
            messages=request.prompt.decode() if request and payload else None,
            choices=meter.choices if payload and answered and ended else None,
            prompt_token_ids=meter.prompt_token_ids if policy.tokens and ended else None,
            completion_token_ids=meter.token_ids if policy.tokens and ended else None,
            logprobs=meter.logprobs if policy.tokens and ended else None,
            prompt_tokens=usage.prompt if usage else None,
            cached_tokens=usage.cached if usage else None,
            completion_tokens=usage.completion if usage else None,
            reasoning_tokens=usage.reasoning if usage else None,
            usage_source=usage.source if usage else None,
            cost=cost,
            price_version=price_version,
            finish_reasons=(meter.finish_reasons or None) if answered else None,
            http_status=http_status,
            error_code=error_code,
            queue_ns=self._queue_ns,
            first_byte_ns=self._first_byte_ns,
            total_ns=elapsed,
            overhead_ns=elapsed - self.watch.waited_ns if elapsed is not None else None,
            stored=self._stored() if request and request.store and answered and payload and whole else None,
        )

    def _stored(self) -> str:
        """What the client was told that the rest of the record does not say."""
        assert self.target is not None, "a complete answer came from somewhere"
        said = self.meter.created
        created = said if type(said) is int and 0 < said < _FAR else self._time // NANO
        return orjson.dumps({"model": self.target.asked, "created": created}).decode()

    def _cost(self, usage: Usage, prices: PriceBook) -> tuple[int, str]:
        """Nano-dollars, and the price version that says so."""
        assert self.target is not None, "only a request that was routed has used anything"
        price = prices.at(self.target.priced, self._time)
        # Where the engine does not tell how much was cached, every prompt token is billed as fresh.
        return price.cost(usage.prompt, usage.cached or 0, usage.completion), price.id
