# SPDX-License-Identifier: Apache-2.0
"""Durations, sizes and prices as people write them, and the base class of every settings section."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

from contract.money import NANO, parse_usd

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d+)\s*(KiB|MiB|GiB|TiB|[kK]B|MB|GB|TB)?")
_BYTES = {
    None: 1,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
    "kB": 10**3,
    "KB": 10**3,
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


def _as_duration(seconds: float) -> str:
    """In the largest unit of which it is several."""
    units = [unit for unit in ("d", "h", "m") if seconds % _SECONDS[unit] == 0 and seconds > _SECONDS[unit]]
    unit = next(iter(units), "s")
    return f"{seconds / _SECONDS[unit]:g}{unit}"


def _as_size(count: int) -> str:
    unit = next(unit for unit in ("TiB", "GiB", "MiB", "KiB", None) if count % _BYTES[unit] == 0)
    return f"{count // _BYTES[unit]}{unit or ''}"


@dataclass(frozen=True)
class Written:
    """How people write a setting whose value is held as another number; the reference shows it so."""

    kind: str
    show: Callable[[Any], str]


Seconds = Annotated[float, BeforeValidator(_duration), Written("duration", _as_duration)]
"""``30s``, ``5m``, ``500ms``, or a number of seconds."""
Bytes = Annotated[int, BeforeValidator(_size), Written("size", _as_size)]
"""``64MiB``, ``2GiB``, or a number of bytes."""
Usd = Annotated[int, BeforeValidator(parse_usd), Written("USD", lambda nano: f"{nano / NANO:g}")]
"""USD as written (per million tokens, per hour); held as nano-dollars."""
