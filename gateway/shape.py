# SPDX-License-Identifier: Apache-2.0
"""What the client gets of an engine's answer.

It differs from the engine's in three things: ``model`` is the name that the client asked for, ``id`` is ours, and what
only we asked for (running usage, token ids, log-probabilities) is cut out again. Everything else keeps its bytes.

An engine writes ``id`` and ``model`` before any nested value and running usage last, so most answers are cut by two
searches in their bytes; where one is not written so, it is taken apart and joined again.
"""

from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.splice import NULL, Members, elements, joined, joined_array, members, raw
from gateway.usage import Document, Usage

_OURS = ("prompt_token_ids", "token_ids")
_USAGE = b',"usage":'
_any = msgspec.json.Decoder(msgspec.Raw)


@dataclass(slots=True)
class Shape:
    """How the answer to one request is cut."""

    model: str
    response_id: str
    include_usage: bool = False
    """The client asked for a usage chunk at the end of its stream."""
    hide_tokens: bool = False
    """Token ids were asked for by us."""
    hide_logprobs: bool = False
    """Log-probabilities were asked for by us and not by the client."""
    _last: bytes | None = None
    _told_usage: bool = False
    _beginning: bytes | None = None
    """What an answer of the engine begins with, up to the model's name."""
    _ours: bytes = b""
    """What the client gets in its place."""

    def whole(self, data: bytes, read: Document) -> bytes:
        """A plain answer: its bytes, and what was read in them."""
        return self._renamed(data, read) or joined(self._cut(members(data)))

    def chunk(self, data: bytes, read: Document) -> bytes | None:
        """One chunk of a stream; None where there is nothing in it for the client."""
        self._last = data
        told = read.usage is not msgspec.UNSET
        if not read.choices:
            self._told_usage = self._told_usage or told
            return self.whole(data, read) if self.include_usage or not told else None
        renamed = self._renamed(data, read)
        if renamed is not None and (not told or (renamed := _without_usage(renamed)) is not None):
            return renamed
        cut = self._cut(members(data))
        cut.pop("usage", None)
        return joined(cut)

    def missing_usage(self, usage: Usage) -> bytes | None:
        """The usage chunk of a client that asked for one, where the engine sent its usage in another way."""
        if not self.include_usage or self._told_usage or self._last is None or usage.source == "estimated":
            return None
        told: dict[str, Any] = {
            "prompt_tokens": usage.prompt,
            "completion_tokens": usage.completion,
            "total_tokens": usage.prompt + usage.completion,
        }
        if usage.cached is not None:
            told["prompt_tokens_details"] = {"cached_tokens": usage.cached}
        if usage.reasoning is not None:
            told["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning}
        return joined(self._cut({**members(self._last), "choices": raw([]), "usage": raw(told)}))

    def _renamed(self, data: bytes, read: Document) -> bytes | None:
        """The answer with our id and the public name, by searches in its bytes; None where it is not written so.

        The id is the first member. The ``model`` that is found is the outermost one: no object or list begins between
        the first brace and it, and the comma before it stands outside of any string, as an unescaped quote follows.
        The chunks of a stream all begin alike.
        """
        if self.hide_tokens:
            return None
        if self._beginning is not None and data.startswith(self._beginning):
            return self._ours + data[len(self._beginning) :]
        identifier, model = _id(read.id), _model(read.model)
        at = data.find(model, len(identifier)) if data.startswith(identifier) else -1
        if at < 0 or data.find(b"{", 1, at) >= 0 or data.find(b"[", 0, at) >= 0:
            return None
        self._beginning = data[: at + len(model)]
        self._ours = b"%b%b%b" % (_id(self.response_id), data[len(identifier) : at], _model(self.model))
        return self._ours + data[len(self._beginning) :]

    def _cut(self, document: Members) -> Members:
        cut = {**document, "id": raw(self.response_id), "model": raw(self.model)}
        if self.hide_tokens:
            cut.pop("prompt_token_ids", None)
            if _has_choices(document):
                cut["choices"] = joined_array([self._cut_choice(choice) for choice in elements(document["choices"])])
        return cut

    def _cut_choice(self, choice: Members) -> Members:
        cut = {name: value for name, value in choice.items() if name not in _OURS}
        if self.hide_logprobs and "logprobs" in cut:
            cut["logprobs"] = NULL
        return cut


def _id(identifier: str) -> bytes:
    return b'{"id":%b' % msgspec.json.encode(identifier)


def _model(name: str) -> bytes:
    return b',"model":%b' % msgspec.json.encode(name)


def _without_usage(data: bytes) -> bytes | None:
    """The chunk without its last member, where that is ``usage``; None where it is not.

    What is found ends the outermost object: after the last ``,"usage":`` comes one whole value and the last brace.
    """
    at = data.rfind(_USAGE)
    if at < 0 or not data.endswith(b"}"):
        return None
    try:
        _any.decode(data[at + len(_USAGE) : -1])
    except msgspec.DecodeError:
        return None
    return data[:at] + b"}"


def _has_choices(document: Members) -> bool:
    return "choices" in document and bytes(document["choices"]).strip() not in (b"[]", b"null")
