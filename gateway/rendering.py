# SPDX-License-Identifier: Apache-2.0
"""An error as every client of the OpenAI API expects it: the one place that renders them."""

import math

import orjson

from contract.errors import BodyTimeout, MillraceError, UnsupportedEncoding


def error_headers(error: MillraceError) -> dict[str, str]:
    """The headers of its answer, beside its length."""
    told = {"content-type": "application/json"}
    if error.retry_after is not None:
        told["retry-after"] = str(math.ceil(error.retry_after))
    if error.status == 401:
        told["www-authenticate"] = "Bearer"
    if isinstance(error, UnsupportedEncoding):
        told["accept-encoding"] = "identity"
    if isinstance(error, BodyTimeout):
        told["connection"] = "close"  # nobody waits for the rest of the body
    return told


def rendered(error: MillraceError) -> tuple[bytes, bytes]:
    """Header lines with their ends, and the body."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in error_headers(error).items() if name != "connection")
    return lines.encode(), orjson.dumps(error.body())
