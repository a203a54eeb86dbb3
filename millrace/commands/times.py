# SPDX-License-Identifier: Apache-2.0
"""Moments as people write them on a command line."""

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from contract.errors import OperatorError

Since = Annotated[
    str | None, typer.Option(help="From then on: 2026-11-23, 2026-11-23T10:00 (UTC), or 90m, 24h, 7d ago.")
]
Until = Annotated[str | None, typer.Option(help="Before then; written as --since is.")]
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def moment(text: str | None, option: str, now_ns: Callable[[], int] = time.time_ns) -> int | None:
    """UTC nanoseconds; None of None.

    Raises:
        OperatorError: it is no time; ``option`` is named.
    """
    if text is None:
        return None
    if ago := re.fullmatch(r"(\d{1,9})([smhd])", text):
        return now_ns() - int(ago[1]) * _UNITS[ago[2]] * 10**9
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise OperatorError(
            f"{option} {text!r}: must be a time such as 2026-11-23 or 2026-11-23T10:00 (UTC unless it says another "
            "zone), or how long ago: 90m, 24h, 7d"
        ) from None
    found = found if found.tzinfo else found.replace(tzinfo=UTC)
    return (found - _EPOCH) // timedelta(microseconds=1) * 1000
