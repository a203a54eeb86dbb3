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
from gateway.replicas import Replica
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
        self.replica: Replica | None = None
        self.attempts = 0
        self.watch = Stopwatch(clock)
        self.meter = Meter(payload=policy.payload == "on")
        self.closed = False
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

    def goes_upstream(self, replica: Replica) -> None:
        """Notes an attempt; what an earlier one metered is no part of this answer."""
        self.replica = replica
        self.attempts += 1
        self.watch.reached = False
        if self.attempts > 1:
            self.meter = Meter(payload=self._policy.payload == "on")
        if self._queue_ns is None:
            self._queue_ns = self.elapsed_ns

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
        """The record of how it ended, for the spool."""
        return self._record(status, http_status, error_code, prices)

    def _record(
        self, status: Status, http_status: int | None, error_code: str | None, prices: PriceBook | None
    ) -> Invocation:
        request, target, meter = self.request, self.target, self.meter
        record = Invocation(
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
            finish_reasons=(meter.finish_reasons or None) if meter.started else None,
            http_status=http_status,
            error_code=error_code,
            queue_ns=self._queue_ns,
            first_byte_ns=self._first_byte_ns,
        )
        if request is not None:
            self._add_request(record, request)
        if self.watch.reached and status is not Status.REFUSED:
            self._add_usage(record, prices)
        if status is not Status.OPEN:
            record.total_ns = self.elapsed_ns
            record.overhead_ns = record.total_ns - self.watch.waited_ns
            self._add_answer(record)
        return record

    def _add_request(self, record: Invocation, request: Asked) -> None:
        record.stream = request.stream
        record.user = request.user
        if request.metadata is not None:
            record.conversation = request.conversation
            record.metadata = orjson.dumps(request.metadata).decode()
        record.parameters = request.parameters.decode()
        if self._policy.payload == "on":
            record.messages = request.prompt.decode()

    def _add_answer(self, record: Invocation) -> None:
        if self._policy.payload == "on" and self.meter.started:
            record.choices = self.meter.choices
            if record.status is Status.COMPLETE and self.request is not None and self.request.store:
                record.stored = self._stored()
        if self._policy.tokens:
            record.prompt_token_ids = self.meter.prompt_token_ids
            record.completion_token_ids = self.meter.token_ids
            record.logprobs = self.meter.logprobs

    def _stored(self) -> str:
        """What the client was told that the rest of the record does not say."""
        assert self.target is not None, "a complete answer came from somewhere"
        said = self.meter.created
        created = said if type(said) is int and 0 < said < _FAR else self._time // NANO
        return orjson.dumps({"model": self.target.asked, "created": created}).decode()

    def _add_usage(self, record: Invocation, prices: PriceBook | None) -> None:
        if record.status is Status.FAILED and not self.meter.started:
            return  # an engine that never began: what it did is unknown, and it is free
        usage = self.usage
        record.prompt_tokens, record.completion_tokens = usage.prompt, usage.completion
        record.cached_tokens, record.reasoning_tokens = usage.cached, usage.reasoning
        record.usage_source = usage.source
        if prices is not None:
            self._add_cost(record, usage, prices)

    def _add_cost(self, record: Invocation, usage: Usage, prices: PriceBook) -> None:
        cost, record.price_version = self._cost(usage, prices)
        record.cost = 0 if record.status in FREE else cost

    def _cost(self, usage: Usage, prices: PriceBook) -> tuple[int, str]:
        """Nano-dollars, and the price version that says so."""
        assert self.target is not None, "only a request that was routed has used anything"
        price = prices.at(self.target.priced, self._time)
        # Where the engine does not tell how much was cached, every prompt token is billed as fresh.
        return price.cost(usage.prompt, usage.cached or 0, usage.completion), price.id
