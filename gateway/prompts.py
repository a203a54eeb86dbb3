# SPDX-License-Identifier: Apache-2.0
"""What a model reads where there are no messages: one or several prompts, each a text or a list of tokens."""

from typing import Any

from gateway.checks import described, integer, invalid, list_of, schema_of, text

_MAX_TOKENS = 2**20
"""Of one prompt given as tokens: more than any engine here can mean."""
_token_ids = list_of(integer(0, 2**31 - 1), _MAX_TOKENS)


def how_many(prompt: Any) -> int:
    """The prompts in what `PROMPT` has passed."""
    return len(prompt) if isinstance(prompt, list) and isinstance(prompt[0], str | list) else 1


def _prompt(field: str, value: Any) -> Any:
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise invalid(field, value, "is not a string, a list of strings, or tokens")
    if isinstance(value[0], str):
        return list_of(text, len(value))(field, value)
    if isinstance(value[0], list):
        return [_tokens(f"{field}[{index}]", each) for index, each in enumerate(value)]
    return _tokens(field, value)


def _tokens(field: str, value: Any) -> list[int]:
    tokens: list[int] = _token_ids(field, value)
    if not tokens:
        raise invalid(field, value, "holds no token")
    return tokens


_TOKENS = {**schema_of(_token_ids), "minItems": 1}
PROMPT = described(
    _prompt,
    {
        "anyOf": [
            schema_of(text),
            {"type": "array", "items": schema_of(text), "minItems": 1},
            _TOKENS,
            {"type": "array", "items": _TOKENS, "minItems": 1},
        ]
    },
)
"""One prompt or several, as they go to the engine."""
