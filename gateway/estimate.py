# SPDX-License-Identifier: Apache-2.0
"""What a request can use at most, before anything of it is sent.

A tokenizer that works on bytes makes no more tokens than there are bytes; a chat template adds a few for each message.
"""

from collections.abc import Iterable

import orjson

from contract.prices import PriceBook
from gateway.asked import COMPLETIONS, EMBEDDINGS, Asked
from gateway.prompts import how_many
from gateway.replicas import Backend, Replica
from gateway.routes import Target

PER_PROMPT, PER_MESSAGE = 64, 8
"""Tokens of a template: once, and around each message."""
_SILENT_COMPLETION = 16
"""Of the route without messages, where nothing is said."""
_LONGEST = ("max_completion_tokens", "max_tokens")


def most_tokens(request: Asked, longest: int, context: int | None) -> tuple[int, int]:
    """Tokens of the prompt and of the answers, at most.

    ``longest`` is what bounds an answer where the request does not; ``context`` is the model's, where it is known.
    """
    prompts = how_many(orjson.loads(request.prompt)) if request.endpoint in (COMPLETIONS, EMBEDDINGS) else 1
    read = len(request.prompt) + len(request.parameters)
    read += PER_PROMPT * prompts + PER_MESSAGE * request.prompt.count(b'"role":')
    written = 0 if request.endpoint is EMBEDDINGS else _longest(request, longest)
    if context is not None:
        read, written = min(read, context * prompts), min(written, context)
    return read, written * request.n * prompts


def largest_context(backends: Iterable[Backend]) -> int | None:
    """The context of the models behind any of them; None where one is not known."""
    known = [each.client.context if isinstance(each, Replica) else None for each in backends]
    sizes = [size for size in known if size is not None]
    return max(sizes, default=None) if len(sizes) == len(known) else None


def most_nanos(read: int, written: int, targets: Iterable[Target], prices: PriceBook, now_ns: int) -> int:
    """Nano-dollars at most, whichever of the targets answers."""
    found = [prices.at(target.priced, now_ns) for target in targets]
    return max(max(price.cost(read, 0, written), price.cost(read, read, written)) for price in found)


def _longest(request: Asked, otherwise: int) -> int:
    parameters = orjson.loads(request.parameters)
    told = [parameters[name] for name in _LONGEST if name in parameters]
    if told:
        return int(max(told))
    return _SILENT_COMPLETION if request.endpoint is COMPLETIONS else otherwise
