# SPDX-License-Identifier: Apache-2.0
"""The codings of a request's body: chunks are taken, compression is not.

A body that is compressed would be read as if it were not. So a head that names a coding is refused by that name, on
every route and before anything of the body is read.
"""

from collections.abc import Iterable, Sequence

from contract.errors import InvalidRequest, MillraceError, UnsupportedEncoding

_LONGEST_SHOWN = 100


def refusal(headers: Iterable[tuple[bytes, bytes]]) -> MillraceError | None:
    """The error for a head that names a coding that is not taken; names of ``headers`` are in lower case."""
    transfer, content = bytearray(), bytearray()
    for name, value in headers:
        if name == b"transfer-encoding":
            transfer += b"," + value
        elif name == b"content-encoding":
            content += b"," + value
    if transfer and _listed(transfer) != ["chunked"]:
        return InvalidRequest(
            f"transfer-encoding: {_shown(transfer)} is not taken; a body may come in chunks (chunked), and no other "
            "coding",
            code="invalid_http",
        )
    if set(_listed(content)) - {"identity"}:
        return UnsupportedEncoding(
            f"content-encoding: {_shown(content)} is not taken; send the body as it is, without compression"
        )
    return None


def _listed(values: bytearray) -> Sequence[str]:
    """The members of a header's list; empty ones are none (RFC 9110, 5.6.1)."""
    return [each for part in values.decode("latin-1").lower().split(",") if (each := part.strip(" \t"))]


def _shown(values: bytearray) -> str:
    shown = ", ".join(_listed(values))
    return shown if len(shown) <= _LONGEST_SHOWN else shown[:_LONGEST_SHOWN] + "…"
