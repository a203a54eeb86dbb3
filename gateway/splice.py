# SPDX-License-Identifier: Apache-2.0
"""Changing a few members of a JSON object while every other value keeps its bytes.

An object is taken apart into raw values by name, some are replaced or left out, and it is joined again. Only the
whitespace between members and the spelling of names can change; numbers, strings and nested values cannot.
"""

from collections.abc import Iterable, Mapping

import msgspec

Members = dict[str, msgspec.Raw]
NULL = msgspec.Raw(b"null")
_members = msgspec.json.Decoder(Members)
_elements = msgspec.json.Decoder(list[Members])


def members(document: bytes | msgspec.Raw) -> Members:
    """The members of an object, in order.

    Raises:
        msgspec.DecodeError: it is no JSON, or no object.
    """
    return _members.decode(document)


def elements(array: bytes | msgspec.Raw) -> list[Members]:
    """The members of every object of an array.

    Raises:
        msgspec.DecodeError: it is no JSON, or no array of objects.
    """
    return _elements.decode(array)


def joined(parts: Mapping[str, msgspec.Raw]) -> bytes:
    """The object again."""
    return b"{" + b",".join(b"%b:%b" % (_quoted(name), bytes(value)) for name, value in parts.items()) + b"}"


def joined_array(objects: Iterable[Mapping[str, msgspec.Raw]]) -> msgspec.Raw:
    """An array of objects again, as a raw member."""
    return msgspec.Raw(b"[" + b",".join(joined(parts) for parts in objects) + b"]")


def raw(value: object) -> msgspec.Raw:
    """A value of ours as a raw member."""
    return msgspec.Raw(msgspec.json.encode(value))


def _quoted(name: str) -> bytes:
    return msgspec.json.encode(name)
