# SPDX-License-Identifier: Apache-2.0
"""The client's side of an exchange with the application: its headers, its body, its hanging up."""

import asyncio

from starlette.types import Receive, Scope

from contract.errors import BodyTimeout, PayloadTooLarge
from contract.settings import GatewaySettings


class ClientGone(Exception):
    """The client has hung up, or has stopped reading."""


def header(scope: Scope, name: bytes) -> str | None:
    """The value of a request header; ``name`` in lower case."""
    for known, value in scope["headers"]:
        if known == name:
            return str(value.decode("latin-1"))
    return None


async def read_body(scope: Scope, receive: Receive, settings: GatewaySettings) -> bytes:
    """The request's body, bounded in size and time while it is read.

    Raises:
        PayloadTooLarge: it is, or says that it is, longer than ``gateway.max_body``.
        BodyTimeout: its end did not come within ``gateway.body_timeout``.
        ClientGone: the client hung up before its end.
    """
    length, at_most = header(scope, b"content-length"), settings.max_body
    if length is not None and length.isdecimal() and int(length) > at_most:
        raise PayloadTooLarge(f"the body has {length} bytes; at most {at_most} are taken (gateway.max_body)")
    try:
        async with asyncio.timeout(settings.body_timeout):
            return await _read_all(receive, at_most)
    except TimeoutError:
        raise BodyTimeout(f"the body did not come within {settings.body_timeout:g} s (gateway.body_timeout)") from None


async def _read_all(receive: Receive, at_most: int) -> bytes:
    pieces, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        if size > at_most:
            raise PayloadTooLarge(f"the body is longer than the {at_most} bytes taken (gateway.max_body)")
        if not message.get("more_body", False):
            return b"".join(pieces)
