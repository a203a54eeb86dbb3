# SPDX-License-Identifier: Apache-2.0
"""How a limit is shared out: a bank grants slices of it, and a purse spends its slice without asking anyone.

No I/O and no clock of its own: `gateway.bank` keeps the grants in the control database, `gateway.allowance` runs the
purse of a worker. What holds at every instant, whatever fails in between: over all purses, settled + reserved <= held
<= limit (an answer that used more than could be foreseen is a debt, which the next grant pays first). In doubt an
amount counts as spent:

- A grant belongs to one window (a UTC minute, day or month) and ends with it. Each window's sum is kept by itself, so a
  clock that jumps, back or forth, finds what was granted in the window that it lands in.
- A purse tells what it holds, never what to add: a message that is lost or told twice makes nothing out of nothing.
  Each visit to a window has a number, and grants of an earlier visit stay spent.
- A grant of a purse that died stays spent until its window ends. Requests at once have no window: there a grant is a
  lease, which its holder renews.
"""

import enum
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from contract.money import NANO

LEASE_NS = 60 * NANO
"""For which places of requests at once are leased; a gateway that is silent for so long counts as dead."""
_LEASE_USE_NS = LEASE_NS * 5 // 6
"""A lease is used for less long than it is given, as clocks do not run alike; and it is renewed long before."""
_RENEW_NS = LEASE_NS * 2 // 3
_ALWAYS = 2**63 - 1
_MINUTE_NS, _DAY_NS = 60 * NANO, 86_400 * NANO
_IDLE_NS, _LEASED_IDLE_NS = NANO, NANO // 4
"""A slice that nobody touched for so long goes back."""
_BUDGET_SHARE = 100
"""A slice of a budget is at most this part of it beyond what is asked for: so much a crash can withhold."""


class Dimension(enum.StrEnum):
    """What is limited."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    CONCURRENT = "concurrent"
    DAY = "day"
    MONTH = "month"


BUDGETS = frozenset({Dimension.DAY, Dimension.MONTH})


class Need(NamedTuple):
    """What one request takes, or has taken."""

    requests: int = 0
    tokens: int = 0
    nanos: int = 0
    """Nano-dollars."""


_MEASURE = {Dimension.REQUESTS: 0, Dimension.CONCURRENT: 0, Dimension.TOKENS: 1, Dimension.DAY: 2, Dimension.MONTH: 2}


@dataclass(frozen=True)
class Limit:
    """So much of a dimension for one key or project, per window."""

    kind: str
    """``key`` or ``project``."""
    subject: str
    dimension: Dimension
    amount: int
    """Requests, tokens, or nano-dollars."""
    name: str = field(init=False)
    measure: int = field(init=False)
    """Which member of a `Need` counts."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", f"{self.kind}:{self.subject}:{self.dimension}")
        object.__setattr__(self, "measure", _MEASURE[self.dimension])


def window(dimension: Dimension, wall_ns: int) -> tuple[int, int]:
    """Start and end of the window in which a moment lies, UTC nanoseconds; requests at once know only one."""
    if dimension is Dimension.CONCURRENT:
        return -_ALWAYS, _ALWAYS
    if dimension is Dimension.MONTH:
        first = datetime.fromtimestamp(wall_ns // NANO, UTC).replace(day=1, hour=0, minute=0, second=0)
        following = first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
        return int(first.timestamp()) * NANO, int(following.timestamp()) * NANO
    length = _DAY_NS if dimension is Dimension.DAY else _MINUTE_NS
    start = wall_ns - wall_ns % length
    return start, start + length


class Claim(NamedTuple):
    """What a purse tells the bank of one limit, and asks of it."""

    limit: Limit
    starts_ns: int
    """Of the window."""
    visit: int
    held: int
    """All that this purse holds in this visit to the window; what it held above is given back."""
    ends_ns: int
    """When the grant ends: with its window, or its lease."""
    least: int = 0
    """Less would be of no use."""
    want: int = 0


class Grant(NamedTuple):
    """What the bank answers: so much more is held, and so much is left to anyone."""

    amount: int
    left: int


def granted(limit: Limit, held_by_others: int, others: int, claim: Claim) -> Grant:
    """What a claim gets: what it wants, or, while there is plenty, half of its even share, so that it need not come
    again soon; near the limit it is what is wanted alone."""
    left = limit.amount - held_by_others - claim.held
    if claim.want <= 0 or left < max(claim.least, 1):
        return Grant(0, max(left, 0))
    share = left // (2 * (others + 1))
    if limit.dimension in BUDGETS:
        share = min(share, limit.amount // _BUDGET_SHARE)
    amount = min(left, max(claim.want, share))
    return Grant(amount, left - amount)


class Account:
    """What a purse has of one limit, in one visit to one window."""

    __slots__ = ("dirty", "ends_ns", "held", "lease_ns", "limit", "scarce", "starts_ns", "touched_ns", "used", "visit")

    def __init__(self, limit: Limit, visit: int, wall_ns: int) -> None:
        self.limit = limit
        self.visit = visit
        self.starts_ns, self.ends_ns = window(limit.dimension, wall_ns)
        self.held = 0
        self.used = 0
        """Reserved and settled."""
        self.touched_ns = -_ALWAYS
        """Monotonic time of the last request."""
        self.dirty = False
        """The bank may think that more is held."""
        self.scarce = False
        """Nothing was left at the bank when it was last asked."""
        self.lease_ns = -_ALWAYS if self.leased else _ALWAYS
        """Monotonic time until which what is held may be used."""

    @property
    def leased(self) -> bool:
        """Whether it has no window."""
        return self.limit.dimension is Dimension.CONCURRENT

    @property
    def free(self) -> int:
        """What can be reserved at once; negative where there is a debt."""
        return self.held - self.used

    def begin(self, visit: int, wall_ns: int) -> None:
        """Goes on in another window. What is left of the old one is void; who still holds of it settles nothing."""
        self.visit, self.held, self.used = visit, 0, 0
        self.starts_ns, self.ends_ns = window(self.limit.dimension, wall_ns)

    def give_back(self) -> None:
        """Holds no more than is used; the bank is yet to hear of it."""
        if self.held > self.used:
            self.held, self.dirty = max(self.used, 0), True


class Hold:
    """What one request has reserved, until it settles."""

    __slots__ = ("_parts", "_purse", "need")

    def __init__(self, purse: "Purse", parts: Sequence[tuple[Account, int]], need: Need) -> None:
        self._purse = purse
        self._parts = parts
        self.need = need

    def settle(self, real: Need) -> None:
        """Counts what was really used in place of what was reserved; a second time does nothing."""
        parts, self._parts = self._parts, ()
        for account, visit in parts:
            if account.visit != visit:
                continue  # of a window that has passed
            measure = account.limit.measure
            if account.leased:
                account.used -= self.need[measure]
                if account.scarce:
                    self._purse.urgent.add(account.limit.name)
                    self._purse.hurry()
            else:
                account.used += real[measure] - self.need[measure]


class Purse:
    """The slices of one worker."""

    def __init__(self, hurry: Callable[[], None] = lambda: None) -> None:
        """``hurry`` is called where the next round with the bank is due at once."""
        self.accounts: dict[str, Account] = {}
        self.urgent: set[str] = set()
        """What somebody else waits for."""
        self.hurry = hurry
        self._visits = itertools.count()

    def account(self, limit: Limit, wall_ns: int, mono_ns: int) -> Account:
        """What there is of a limit now."""
        account = self.accounts.get(limit.name)
        if account is None:
            account = self.accounts[limit.name] = Account(limit, next(self._visits), wall_ns)
        elif not account.starts_ns <= wall_ns < account.ends_ns:
            account.begin(next(self._visits), wall_ns)
        if account.limit is not limit:
            if account.limit.amount != limit.amount:
                account.give_back()
            account.limit = limit
        if mono_ns >= account.lease_ns:
            account.give_back()  # others may have it by now
        return account

    def reserve(self, limits: Iterable[Limit], need: Need, wall_ns: int, mono_ns: int) -> Hold | None:
        """Reserves at once, of every limit or of none; None where a slice does not suffice."""
        parts, known = [], self.accounts
        for limit in limits:
            account = known.get(limit.name)
            if (
                account is None
                or account.limit is not limit
                or not account.starts_ns <= wall_ns < account.ends_ns
                or mono_ns >= account.lease_ns
            ):
                account = self.account(limit, wall_ns, mono_ns)
            account.touched_ns = mono_ns
            if account.held - account.used < need[limit.measure]:
                return None
            parts.append((account, account.visit))
        for account, _ in parts:
            account.used += need[account.limit.measure]
        return Hold(self, parts, need)

    def lacking(self, limits: Iterable[Limit], need: Need, wall_ns: int, mono_ns: int) -> list[Limit]:
        """The limits of whose slices there is not enough."""
        return [limit for limit in limits if self.account(limit, wall_ns, mono_ns).free < need[limit.measure]]

    def claims(self, waiting: Iterable[tuple[Iterable[Limit], Need]], wall_ns: int, mono_ns: int) -> list[Claim]:
        """What those who wait lack of the bank, and what somebody else waits for.

        One round with the bank at a time: these claims are told to it, and its answers to `answered`. What becomes of
        a round that fails is unknown, and the next one sets it right.
        """
        needs: dict[str, list[int]] = {name: [] for name in self.urgent if name in self.accounts}
        self.urgent.clear()
        for limits, need in waiting:
            for limit in limits:
                self.account(limit, wall_ns, mono_ns)
                needs.setdefault(limit.name, []).append(need[limit.measure])
        return self._claims(needs, wall_ns, mono_ns)

    def sweep(self, wall_ns: int, mono_ns: int, *, closing: bool = False) -> list[Claim]:
        """A round for all accounts: what is idle goes back, leases are renewed, what has passed is forgotten."""
        for name, account in list(self.accounts.items()):
            if not account.starts_ns <= wall_ns < account.ends_ns or (
                account.leased and account.held == account.used == 0 and not account.dirty
            ):
                del self.accounts[name]
            elif closing or mono_ns - account.touched_ns > (_LEASED_IDLE_NS if account.leased else _IDLE_NS):
                account.give_back()
        return self._claims(dict.fromkeys(self.accounts, ()), wall_ns, mono_ns)

    def _claims(self, needs: Mapping[str, Sequence[int]], wall_ns: int, mono_ns: int) -> list[Claim]:
        found = (self._claim(self.accounts[name], needs[name], wall_ns, mono_ns) for name in sorted(needs))
        return [claim for claim in found if claim is not None]  # in one order, in which a bank locks them

    def _claim(self, account: Account, needs: Sequence[int], wall_ns: int, mono_ns: int) -> Claim | None:
        want = sum(needs) - account.free if needs else 0
        least = max(min(needs) - account.free, 0) if needs else 0
        if account.leased and account.scarce and not needs:
            account.give_back()
        renews = account.leased and account.held > 0 and account.lease_ns - mono_ns < _RENEW_NS
        if want <= 0 and not account.dirty and not renews:
            return None
        account.dirty = True  # until it is answered
        ends_ns = wall_ns + LEASE_NS if account.leased else account.ends_ns
        return Claim(account.limit, account.starts_ns, account.visit, account.held, ends_ns, least, want)

    def answered(self, answers: Iterable[tuple[Claim, Grant]], asked_ns: int) -> None:
        """Takes what was granted; ``asked_ns`` is the monotonic time of the claims."""
        for claim, grant in answers:
            account = self.accounts.get(claim.limit.name)
            if account is None or account.visit != claim.visit:
                continue  # its window has passed: void
            account.dirty = account.held != claim.held
            account.held += grant.amount
            account.scarce = grant.left == 0
            if account.leased:
                account.lease_ns = asked_ns + _LEASE_USE_NS
