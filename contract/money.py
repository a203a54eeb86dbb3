# SPDX-License-Identifier: Apache-2.0
"""Money is an integer.

Two units: an amount is in **nano-dollars** (1 USD = 10^9), a price in **nano-dollars per million tokens**, so that
every price a person writes with up to nine decimals is exact. The cost of one invocation is rounded once, half to
even, to a whole nano-dollar; nothing after that rounds until a statement is printed.
"""

from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation

NANO = 1_000_000_000
TOKENS_PER_PRICE = 1_000_000
MOST_USD = 1_000_000_000
"""Of one amount: in nano-dollars it still fits into the 64 bits of a database's integer."""


def parse_usd(text: str | int | float | Decimal) -> int:
    """Nano-dollars of an amount in USD as people write it.

    Raises:
        ValueError: not a finite number, negative, over `MOST_USD`, or finer than a nano-dollar.
    """
    try:
        # A float from YAML is read as the person wrote it: 0.15 means 0.15, not its binary neighbour.
        amount = Decimal(str(text))
    except InvalidOperation as error:
        raise ValueError(f"{text!r} is not an amount of money") from error
    if not amount.is_finite() or amount < 0:
        raise ValueError(f"{text!r} is not a finite amount of at least 0")
    if amount > MOST_USD:
        raise ValueError(f"{text!r} is over the largest amount, {MOST_USD} USD")
    nano = amount * NANO
    if nano != nano.to_integral_value():
        raise ValueError(f"{text!r} is finer than a nano-dollar (nine decimals)")
    return int(nano)


def format_usd(nano: int, decimals: int = 6) -> str:
    """An amount for people, rounded half to even: ``format_usd(1_234_567) == '$0.001235'``."""
    rounded = (Decimal(nano) / NANO).quantize(Decimal(1).scaleb(-decimals), rounding=ROUND_HALF_EVEN)
    return f"-${-rounded:f}" if rounded < 0 else f"${rounded:f}"


def whole_nanos(total: int) -> int:
    """Nano-dollars of an amount in millionths of one (tokens x price per million), rounded once, half to even."""
    quotient, remainder = divmod(total, TOKENS_PER_PRICE)
    twice = 2 * remainder
    if twice > TOKENS_PER_PRICE or (twice == TOKENS_PER_PRICE and quotient % 2):
        quotient += 1
    return quotient
