# SPDX-License-Identifier: Apache-2.0
"""Durations, sizes and prices as people write them, and the base class of every settings section."""

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

from contract.money import parse_usd

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d+)\s*(KiB|MiB|GiB|TiB|kB|MB|GB|TB)?")
_BYTES = {
    None: 1,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}


class Section(BaseModel):
    """A section of the settings: unknown keys are refused, values are not coerced, nothing changes after loading.

    A number in quotes is text and ``true`` is no number. The environment and ``--set`` are read as YAML scalars, so
    there 9000 is a number without more.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=False, allow_inf_nan=False)


def _duration(value: Any) -> Any:
    if isinstance(value, str):
        match = _DURATION.fullmatch(value.strip())
        if match is None:
            raise ValueError("a duration is a number with a unit: 500ms, 30s, 5m, 2h or 1d")
        return float(match[1]) * _SECONDS[match[2]]
    return value


def _size(value: Any) -> Any:
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        if match is None:
            raise ValueError("a size is a whole number with a unit: 64MiB, 2GiB, 500MB")
        return int(match[1]) * _BYTES[match[2]]
    return value


Seconds = Annotated[float, BeforeValidator(_duration)]
"""``30s``, ``5m``, ``500ms``, or a number of seconds."""
Bytes = Annotated[int, BeforeValidator(_size)]
"""``64MiB``, ``2GiB``, or a number of bytes."""
Usd = Annotated[int, BeforeValidator(parse_usd)]
"""USD as written (per million tokens, per hour); held as nano-dollars."""
