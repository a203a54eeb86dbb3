# SPDX-License-Identifier: Apache-2.0
"""What the query string of a list says: a page of it, and which items."""

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from contract.errors import InvalidRequest
from gateway.checks import Check, described, invalid, one_of, unknown
from gateway.values import METADATA, MODEL

LIMIT, MAX_LIMIT = 20, 100
_METADATA = re.compile(r"metadata\[(.*)\]", re.DOTALL)


class Page(NamedTuple):
    """One page of a list."""

    after: str | None = None
    limit: int = LIMIT
    descending: bool = False
    model: str | None = None
    metadata: dict[str, str] | None = None


def _limit(field: str, value: str) -> int:
    if not (value.isascii() and value.isdecimal() and len(value) < 6 and 1 <= int(value) <= MAX_LIMIT):
        raise invalid(field, value, f"is not a whole number in 1..{MAX_LIMIT}")
    return int(value)


def _after(field: str, value: str) -> str:
    if not 0 < len(value) <= 512:
        raise invalid(field, value, "is not 1 to 512 characters long")
    return value


PAGE: dict[str, Check] = {
    "after": described(_after, {"type": "string", "minLength": 1, "maxLength": 512}),
    "limit": described(_limit, {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": LIMIT}),
    "order": one_of("asc", "desc"),
}
"""What every list takes."""
FILTER: dict[str, Check] = {"model": MODEL}
"""What a list of completions takes too, beside ``metadata[key]``."""


def page_of(pairs: Iterable[tuple[str, str]], *, filtered: bool = False) -> Page:
    """The page that a query string asks for.

    Args:
        pairs: names and values as they came.
        filtered: whether the items can be chosen by model and metadata.

    Raises:
        InvalidRequest: naming the parameter and its value.
    """
    known = PAGE | FILTER if filtered else PAGE
    given: dict[str, Any] = {}
    metadata: dict[str, str] = {}
    for name, value in pairs:
        key = _METADATA.fullmatch(name) if filtered else None
        if key is None and name not in known:
            raise unknown(name, "is not a known parameter of this list")
        if key is not None and "][" in key[1]:
            raise InvalidRequest(f"{name}: metadata has no deeper level", param=name)
        if name in given or (key is not None and key[1] in metadata):
            raise InvalidRequest(f"{name}: is given twice", param=name)
        if key is not None:
            metadata[key[1]] = value
        else:
            given[name] = known[name](name, value)
    descending = given.pop("order", "asc") == "desc"
    return Page(**given, descending=descending, metadata=METADATA("metadata", metadata) if metadata else None)
