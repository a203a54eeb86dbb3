# SPDX-License-Identifier: Apache-2.0
"""The limits of keys and projects on one worker: reserved out of its purse at once, or after one question to the bank.

Questions are gathered: whoever waits is in the next round, and there is one round at a time, in a thread.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

import sqlalchemy as sa

from contract.errors import InvalidRequest, MillraceError, Overloaded, QuotaExceeded, RateLimited
from contract.ids import new_id
from contract.money import NANO, format_usd
from gateway.bank import Bank
from gateway.quota import BUDGETS, Claim, Dimension, Hold, Limit, Need, Purse, window

SWEEP_SECONDS = 0.5
_FORGET_SECONDS = 600.0
_PLACE_RETRY_SECONDS = 1.0
_WORDS = {
    Dimension.REQUESTS: "{} requests a minute",
    Dimension.TOKENS: "{} tokens a minute",
    Dimension.CONCURRENT: "{} requests at once",
    Dimension.DAY: "{} a day (UTC)",
    Dimension.MONTH: "{} a month (UTC)",
}
_HEADERS = (Dimension.REQUESTS, Dimension.TOKENS)
_log = logging.getLogger(__name__)


def in_words(limit: Limit) -> str:
    """A limit for people: ``60 requests a minute``."""
    amount = format_usd(limit.amount, 9) if limit.dimension in BUDGETS else str(limit.amount)
    return _WORDS[limit.dimension].format(amount)


class _Waiting:
    """A request that waits for the bank's answer."""

    def __init__(self, limits: Sequence[Limit], need: Need, answer: "asyncio.Future[Hold]") -> None:
        self.limits = limits
        self.need = need
        self.answer = answer
        self.refusal: MillraceError | None = None
        """What the bank has said already; a place that is just being given back may still come."""

    def fail(self, error: MillraceError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class Allowance:
    """The purse of a worker, and its rounds with the bank."""

    def __init__(
        self,
        database: sa.Engine,
        timeout: float,
        wall_ns: Callable[[], int] = time.time_ns,
        mono_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """``timeout`` bounds a question to the bank, in seconds."""
        self._bank = Bank(database, new_id("purse"))
        self._timeout = timeout
        self._wall = wall_ns
        self._mono = mono_ns
        self._due = asyncio.Event()
        self.purse = Purse(self._due.set)
        self._waiting: list[_Waiting] = []

    def reserve(self, limits: Sequence[Limit], need: Need) -> Hold | None:
        """Reserves at once; None where the bank must be asked.

        Raises:
            InvalidRequest: the request alone is over a limit.
        """
        for limit in limits:
            if need[limit.measure] > limit.amount:
                raise _too_large(limit, need)
        return self.purse.reserve(limits, need, self._wall(), self._mono())

    async def granted(self, limits: Sequence[Limit], need: Need) -> Hold:
        """Reserves, after one question to the bank where that is needed.

        Raises:
            InvalidRequest: the request alone is over a limit.
            RateLimited: the bank has said no.
            Overloaded: it has not answered in time.
        """
        hold = self.reserve(limits, need)
        if hold is not None:
            return hold
        loop = asyncio.get_running_loop()
        waiting = _Waiting(limits, need, loop.create_future())
        self._ask(waiting)
        timer = loop.call_later(self._timeout, self._late, waiting)
        try:
            return await waiting.answer
        except BaseException:
            if waiting.answer.done() and not waiting.answer.cancelled() and waiting.answer.exception() is None:
                waiting.answer.result().settle(Need())  # it was granted to somebody who has gone
            waiting.answer.cancel()
            raise
        finally:
            timer.cancel()

    def headers(self, limits: Iterable[Limit]) -> bytes:
        """What is left for sure, as header lines; of a key's limit and its project's, the one of which less is left."""
        wall, mono, lines = self._wall(), self._mono(), b""
        for dimension in _HEADERS:
            known = [self.purse.account(limit, wall, mono) for limit in limits if limit.dimension is dimension]
            if known:
                least, name = min(known, key=lambda account: account.free), dimension.encode()
                lines += (
                    b"x-ratelimit-limit-%b: %d\r\nx-ratelimit-remaining-%b: %d\r\nx-ratelimit-reset-%b: %b\r\n" % (
                        name, least.limit.amount, name, max(least.free, 0), name,
                        lasting(least.ends_ns - wall).encode(),
                    )
                )  # fmt: skip
        return lines

    async def run(self) -> None:
        """Holds the rounds, until it is cancelled."""
        swept = forgot = self._mono()
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._due.wait(), SWEEP_SECONDS)
            self._due.clear()
            await self._ask_for_all()
            now = self._mono()
            if now - swept >= SWEEP_SECONDS * NANO:
                swept = now
                await self._round(self.purse.sweep(self._wall(), now), now)
            if now - forgot >= _FORGET_SECONDS * NANO:
                forgot = now
                await self._forget()

    async def close(self) -> None:
        """Gives back what is not used."""
        now = self._mono()
        await self._round(self.purse.sweep(self._wall(), now, closing=True), now)

    def _ask(self, waiting: _Waiting) -> None:
        self._waiting.append(waiting)
        self._due.set()

    def _late(self, waiting: _Waiting) -> None:
        waiting.fail(
            waiting.refusal
            or Overloaded(
                "whether the limits of this key allow the request is not known: the control database did not answer "
                f"within {self._timeout:g} s (gateway.limits_timeout)",
                code="limits_unknown",
                retry_after=1.0,
            )
        )

    async def _ask_for_all(self) -> None:
        asking = [waiting for waiting in self._waiting if not waiting.answer.done()]
        self._waiting.clear()
        if not asking and not self.purse.urgent:
            return
        now = self._mono()
        claims = self.purse.claims([(each.limits, each.need) for each in asking], self._wall(), now)
        answered = await self._round(claims, now)
        for waiting in asking:
            if not waiting.answer.done():
                self._answer(waiting, answered)

    def _answer(self, waiting: _Waiting, answered: bool) -> None:
        wall, mono = self._wall(), self._mono()
        hold = self.purse.reserve(waiting.limits, waiting.need, wall, mono)
        if hold is not None:
            waiting.answer.set_result(hold)
        elif not answered:
            self._late(waiting)
        else:
            lacking = self.purse.lacking(waiting.limits, waiting.need, wall, mono)
            again = waiting.refusal is None and all(limit.dimension is Dimension.CONCURRENT for limit in lacking)
            waiting.refusal = refusal(lacking, wall)
            if again:
                asyncio.get_running_loop().call_later(self._timeout / 2, self._ask, waiting)
            else:
                waiting.fail(waiting.refusal)

    async def _round(self, claims: Sequence[Claim], asked_ns: int) -> bool:
        """Whether the bank has answered."""
        if not claims:
            return True
        try:
            answers = await asyncio.to_thread(self._bank.settle, claims, self._wall())
        except sa.exc.SQLAlchemyError:
            _log.exception("the control database does not grant anything of the limits of keys")
            return False
        self.purse.answered(answers, asked_ns)
        return True

    async def _forget(self) -> None:
        try:
            await asyncio.to_thread(self._bank.forget, self._wall())
        except sa.exc.SQLAlchemyError:
            _log.exception("grants that ended long ago stay in the control database until the next time")


def refusal(lacking: Sequence[Limit], wall_ns: int) -> RateLimited:
    """Why a request must wait: the limit for which it must wait longest."""
    limit = max(lacking, key=lambda each: _wait_seconds(each, wall_ns))
    seconds, budget = _wait_seconds(limit, wall_ns), limit.dimension in BUDGETS
    error = QuotaExceeded if budget else RateLimited
    what = "budget" if budget else "limit"
    return error(
        f"the {what} of this {limit.kind}, {in_words(limit)}, is used up; try again in {seconds:.0f} s",
        retry_after=seconds,
    )


def lasting(nanoseconds: int) -> str:
    """A time as OpenAI's headers spell it: ``12ms``, ``1s``, ``6m0s``; never less than it is."""
    milliseconds = max(0, -(-nanoseconds // 1_000_000))
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, seconds = divmod(-(-milliseconds // 1000), 60)
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"


def _wait_seconds(limit: Limit, wall_ns: int) -> float:
    if limit.dimension is Dimension.CONCURRENT:
        return _PLACE_RETRY_SECONDS
    return float(-(-(window(limit.dimension, wall_ns)[1] - wall_ns) // NANO))


def _too_large(limit: Limit, need: Need) -> InvalidRequest:
    amount = need[limit.measure]
    used = f"cost {format_usd(amount, 9)}" if limit.dimension in BUDGETS else f"use {amount} tokens"
    return InvalidRequest(
        f"max_completion_tokens: this request can {used}, its prompt and the longest answer that it allows; the limit "
        f"of this {limit.kind} is {in_words(limit)}. Ask for fewer tokens, or for a higher limit",
        param="max_completion_tokens",
        code="request_over_limit",
    )
