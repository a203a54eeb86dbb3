# SPDX-License-Identifier: Apache-2.0
"""What a model reads where there are no messages: one or several, each a text or a list of tokens."""

from typing import Any

from gateway.checks import integer, invalid, list_of, text

_token = integer(0, 2**31 - 1)
_MAX_TOKENS = 2**20
"""Of one prompt given as tokens: more than any engine here can mean."""


def check_prompts(field: str, value: Any) -> list[Any]:
    """Each of the prompts.

    Raises:
        InvalidRequest: naming the field and its value.
    """
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        raise invalid(field, value, "is not a string, a list of strings, or tokens")
    if isinstance(value[0], str):
        return list(list_of(text, len(value))(field, value))
    if isinstance(value[0], list):
        return [_tokens(f"{field}[{index}]", each) for index, each in enumerate(value)]
    return [_tokens(field, value)]


def _tokens(field: str, value: Any) -> list[int]:
    tokens: list[int] = list_of(_token, _MAX_TOKENS)(field, value)
    if not tokens:
        raise invalid(field, value, "holds no token")
    return tokens
