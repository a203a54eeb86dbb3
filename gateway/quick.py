# SPDX-License-Identifier: Apache-2.0
"""The usual chat request in one step: decoded, checked and bounded by msgspec, in C.

Whatever this does not take, for whatever reason, goes to `gateway.fields`, which knows every field and names what is
wrong. What it takes, `gateway.fields` takes to the same effect: a test holds the two side by side.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from contract.settings import GatewaySettings
from gateway.asked import CHAT, Asked
from gateway.values import MAX_MODEL_NAME

_Sampling = Annotated[float, Meta(ge=-2, le=2)]
_Count = Annotated[int, Meta(ge=1)]
_Short = Annotated[str, Meta(max_length=64)]
_Long = Annotated[str, Meta(max_length=512)]


class _Message(msgspec.Struct, forbid_unknown_fields=True):
    role: Literal["system", "developer", "user", "assistant"]
    content: str


class _StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    include_usage: bool | None = None


class _Parameters(msgspec.Struct, omit_defaults=True):
    """Each with the range that `gateway.fields` gives it."""

    frequency_penalty: _Sampling | None = None
    max_completion_tokens: _Count | None = None
    max_tokens: _Count | None = None
    n: _Count | None = None
    presence_penalty: _Sampling | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: str | Annotated[list[str], Meta(max_length=16)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None


class _Usual(_Parameters, forbid_unknown_fields=True, kw_only=True):
    model: Annotated[str, Meta(min_length=1, max_length=MAX_MODEL_NAME)] = ""
    messages: Annotated[list[_Message], Meta(min_length=1)] = []
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    user: str | None = None
    store: bool | None = None
    metadata: Annotated[dict[_Short, _Long], Meta(max_length=16)] | None = None


_NOT_PARAMETERS: tuple[str, list[_Message], None, None, None, None, None] = ("", [], None, None, None, None, None)
_decoder = msgspec.json.Decoder(_Usual)
_encoder = msgspec.json.Encoder()


def usual_chat(body: bytes, settings: GatewaySettings) -> Asked | None:
    """The request in ``body``, every field checked; None where it is not a usual one."""
    try:
        asked = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    longest, stream, options = settings.max_completion_tokens, bool(asked.stream), asked.stream_options
    if (
        not asked.model
        or not 0 < len(asked.messages) <= settings.max_messages
        or (asked.max_tokens or 0) > longest
        or (asked.max_completion_tokens or 0) > longest
        or (asked.n or 0) > settings.max_choices
        or (options is not None and not stream)
    ):
        return None
    model, messages = asked.model, asked.messages
    user, metadata, store = asked.user, asked.metadata, asked.store
    # What is left of it once the rest is back at its defaults, which are not written, are the parameters.
    (
        asked.model, asked.messages, asked.stream, asked.stream_options, asked.user, asked.metadata, asked.store,
    ) = _NOT_PARAMETERS  # fmt: skip
    return Asked(
        endpoint=CHAT,
        model=model,
        prompt=_encoder.encode(messages),
        parameters=_encoder.encode(asked),
        stream=stream,
        include_usage=options is not None and bool(options.include_usage),
        wants_logprobs=False,
        bounded=asked.max_tokens is not None or asked.max_completion_tokens is not None,
        user=user,
        metadata=metadata,
        n=asked.n or 1,
        store=bool(store),
    )
