# SPDX-License-Identifier: Apache-2.0
"""A request to a model as it has been understood, and the routes that take one."""

import functools
from typing import Any, NamedTuple

import msgspec
import orjson

from contract import records


class Endpoint(NamedTuple):
    """One of the routes behind which an engine's model answers."""

    path: str
    """As clients and engines know it."""
    id_prefix: str
    """What stands before the invocation's id in the id of an answer."""
    prompt: str
    """The field that the model reads."""
    logprobs: object
    """What asks for the log-probabilities of the sampled tokens alone; None where no token is sampled."""
    answers: str = "choices"
    """The field of the engine's answer that makes it one."""


CHAT = Endpoint(records.CHAT, "chatcmpl-", "messages", True)
COMPLETIONS = Endpoint("/v1/completions", "cmpl-", "prompt", 0)
EMBEDDINGS = Endpoint("/v1/embeddings", "embd-", "input", None, "data")
RESPONSES = Endpoint(records.RESPONSES, "resp_", "input", True)
"""Engines are asked for a chat completion in its place."""
ENDPOINTS = (CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES)


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What may go to an engine; what goes on is JSON already."""

    endpoint: Endpoint
    model: str
    prompt: bytes
    """The messages, or the prompt."""
    parameters: bytes
    """What the client set, as it goes to the engine: an object."""
    stream: bool
    include_usage: bool
    wants_logprobs: bool
    """The client asked for log-probabilities itself."""
    bounded: bool
    """The client bounded the tokens of its answer, or the engine does by itself."""
    user: str | None
    metadata: dict[str, str] | None = None
    n: int = 1
    """Answers to each prompt."""
    store: bool = False
    """The answer is to be found again under its id."""
    echo: dict[str, Any] | None = None
    """What the answer repeats of a request for a response; None where the answer is the engine's own."""

    @property
    def conversation(self) -> str | None:
        """The conversation that the application says this belongs to."""
        return (self.metadata or {}).get("conversation")

    def upstream(self, model: str, cache_salt: str, *, tokens: bool, at_most: int | None = None) -> bytes:
        """The body for the engine, which knows the version as ``model``.

        ``tokens`` also asks for token ids and the sampled tokens' log-probabilities; ``at_most`` bounds the tokens of
        a request that does not.
        """
        own: dict[str, Any] = {}
        if at_most is not None and not self.bounded:
            own["max_completion_tokens"] = at_most
        if self.stream:
            # Running usage, so that what a client that hangs up has used is the engine's own count.
            own |= {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
        if tokens and self.endpoint.logprobs is not None:
            own["return_token_ids"] = True
            if not self.wants_logprobs:
                own["logprobs"] = self.endpoint.logprobs
        return b'%b%b,"%b":%b%b%b}' % (
            _beginning(model, cache_salt),
            _inner(orjson.dumps(own)) if own else b"",
            self.endpoint.prompt.encode(),
            self.prompt,
            b"" if self.parameters == b"{}" else b",",
            self.parameters[1:-1],
        )


@functools.lru_cache(maxsize=4096)
def _beginning(model: str, cache_salt: str) -> bytes:
    return orjson.dumps({"model": model, "cache_salt": cache_salt})[:-1]


def _inner(members: bytes) -> bytes:
    return b"," + members[1:-1]
