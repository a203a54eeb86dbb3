# SPDX-License-Identifier: Apache-2.0
"""What the client gets of an engine's answer.

It differs from the engine's in three things: ``model`` is the name that the client asked for, ``id`` is ours, and what
only we asked for (running usage, token ids, log-probabilities) is cut out again. Everything else keeps its bytes.
"""

from dataclasses import dataclass
from typing import Any

from gateway.splice import NULL, Members, elements, joined, joined_array, raw
from gateway.usage import Usage

_OURS = ("prompt_token_ids", "token_ids")


@dataclass
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
    _last: Members | None = None
    _told_usage: bool = False

    def whole(self, document: Members) -> bytes:
        """A plain answer."""
        return joined(self._cut(document))

    def chunk(self, document: Members) -> bytes | None:
        """One chunk of a stream; None where there is nothing in it for the client."""
        self._last = document
        cut = self._cut(document)
        if not _has_choices(document):
            self._told_usage = self._told_usage or "usage" in document
            return joined(cut) if self.include_usage or "usage" not in document else None
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
        return joined(self._cut({**self._last, "choices": raw([]), "usage": raw(told)}))

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


def _has_choices(document: Members) -> bool:
    return "choices" in document and bytes(document["choices"]).strip() not in (b"[]", b"null")
