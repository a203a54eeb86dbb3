# SPDX-License-Identifier: Apache-2.0
"""What litellm hands over, as the JSON and the events that an engine would have sent.

Only what OpenAI's schema has is taken over; what a provider says beside it stays here. Usage that did not come is left
out: litellm gives zeros in its place, and an answer without a single token of a prompt there is none.
"""

import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import orjson

from contract.errors import EngineFailed
from gateway.sse import DONE, event_of

_SAID = ("content", "reasoning_content", "reasoning", "refusal")
_DETAILS = (("prompt_tokens_details", "cached_tokens"), ("completion_tokens_details", "reasoning_tokens"))
Words = Callable[[str], str]
"""A finish reason in OpenAI's words."""


@dataclass
class Translation:
    """One answer."""

    response_id: str
    model: str
    finish_reason: Words
    _created: int = 0
    _begun: set[int] = field(default_factory=set)
    _ends: dict[int, str | None] = field(default_factory=dict)
    """What each choice has last said to have ended with: some providers say so with every chunk."""
    _done: bool = False
    _prompt: int = 0
    _completion: int = 0
    _details: dict[str, Any] = field(default_factory=dict)

    def whole(self, answer: Any) -> bytes:
        """A plain answer.

        Raises:
            EngineFailed: it is none.
        """
        answer = _members(answer)
        choices = [self._choice(_members(choice)) for choice in answer.get("choices") or ()]
        if not choices:
            raise EngineFailed("the provider's answer has no choices")
        document = {**self._head(answer, "chat.completion"), "choices": choices}
        self._note(answer.get("usage"))
        if self._usage is not None:
            document["usage"] = self._usage
        return orjson.dumps(document)

    async def events(self, chunks: AsyncGenerator[Any]) -> AsyncGenerator[bytes]:
        """The events of a stream, with its usage and its end.

        Raises:
            EngineFailed: it ended before every choice did.
        """
        async with aclosing(chunks):
            async for chunk in chunks:
                event = self._chunk(_members(chunk))
                if event:
                    yield event
        if not self._begun or self._begun - self._ends.keys():
            raise EngineFailed("the provider ended its stream without saying that it was done")
        last = [self._event([_ended(index, end)]) for index, end in sorted(self._ends.items()) if end is not None]
        if self._usage is not None:
            last.append(self._event([], usage=self._usage))
        yield b"".join(last) + event_of(DONE)

    def _chunk(self, chunk: Mapping[str, Any]) -> bytes:
        """The event for a chunk; nothing where nothing is said in it."""
        self._note(chunk.get("usage"))
        if "choices" not in chunk:
            if _says_done(chunk):
                self._done = True
                self._ends = dict.fromkeys(self._begun) | self._ends
                return b""
            chunk = _as_chunk(chunk)
        self._created = self._created or chunk.get("created") or int(time.time())
        told = [choice for each in chunk["choices"] or () if (choice := self._delta(_members(each)))]
        if told and self._done:
            # litellm takes any line with [DONE] in it for the end, and what that line said is lost.
            raise EngineFailed("the provider's stream went on after its end")
        return self._event(told) if told else b""

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        head = self._head({"created": self._created}, "chat.completion.chunk")
        return event_of(orjson.dumps({**head, "choices": choices, **more}))

    def _head(self, answer: Mapping[str, Any], kind: str) -> dict[str, Any]:
        created = answer.get("created") or int(time.time())
        return {"id": self.response_id, "object": kind, "created": created, "model": self.model}

    def _choice(self, choice: Mapping[str, Any]) -> dict[str, Any]:
        message = _members(choice.get("message"))
        said = {name: message[name] for name in _SAID if message.get(name) is not None}
        refusal = (message.get("provider_specific_fields") or {}).get("refusal")
        if refusal is not None:
            said["refusal"] = refusal
        calls = [_tool_call(_members(call)) for call in message.get("tool_calls") or ()]
        reason = choice.get("finish_reason")
        return {
            "index": choice.get("index") or 0,
            "message": {"role": "assistant", "content": None, **said, **({"tool_calls": calls} if calls else {})},
            "logprobs": _members(choice.get("logprobs")) or None,
            "finish_reason": self.finish_reason(reason) if reason else None,
        }

    def _delta(self, choice: Mapping[str, Any]) -> dict[str, Any] | None:
        index, delta = choice.get("index") or 0, _members(choice.get("delta"))
        said = {name: delta[name] for name in _SAID if delta.get(name)}
        calls = [_tool_call(_members(call)) for call in delta.get("tool_calls") or ()]
        if calls:
            said["tool_calls"] = calls
        reason, logprobs = choice.get("finish_reason"), _members(choice.get("logprobs")) or None
        if reason:
            self._ends[index] = self.finish_reason(reason)
        if not said and logprobs is None and (index in self._begun or not (reason or delta.get("role"))):
            return None
        if index not in self._begun:
            self._begun.add(index)
            said = {"role": "assistant", "content": "", **said} if not calls else {"role": "assistant", **said}
        return {"index": index, "delta": said, "logprobs": logprobs, "finish_reason": None}

    # --- usage

    def _note(self, reported: Any) -> None:
        """Counts are running totals, and some providers leave out later what they have told before."""
        usage = _members(reported)
        self._prompt = usage.get("prompt_tokens") or self._prompt
        self._completion = usage.get("completion_tokens") or self._completion
        for name, count in _DETAILS:
            known = _members(usage.get(name)).get(count)
            if known is not None:
                self._details[name] = {count: known}

    @property
    def _usage(self) -> dict[str, Any] | None:
        if not self._prompt:
            return None
        return {
            "prompt_tokens": self._prompt,
            "completion_tokens": self._completion,
            "total_tokens": self._prompt + self._completion,
            **self._details,
        }


def _ended(index: int, end: str) -> dict[str, Any]:
    return {"index": index, "delta": {}, "logprobs": None, "finish_reason": end}


def _says_done(generic: Mapping[str, Any]) -> bool:
    """Whether it is what litellm makes of ``data: [DONE]``."""
    return bool(generic.get("is_finished")) and not generic.get("text") and generic.get("usage") is None


def _as_chunk(generic: Mapping[str, Any]) -> dict[str, Any]:
    """litellm's other kind of chunk, which has one choice and no delta."""
    if "text" not in generic:
        raise EngineFailed("the provider's stream is of a kind that is not understood here")
    calls = [generic["tool_use"]] if generic.get("tool_use") else []
    reason = generic.get("finish_reason") if generic.get("is_finished") else None
    delta = {"content": generic["text"], "tool_calls": calls}
    return {"choices": [{"index": generic.get("index") or 0, "delta": delta, "finish_reason": reason}]}


def _tool_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = {name: value for name, value in _members(call.get("function")).items() if value is not None}
    told = {name: call[name] for name in ("index", "id", "type") if call.get(name) is not None}
    return {**told, "function": {name: function[name] for name in ("name", "arguments") if name in function}}


def _members(value: Any) -> Mapping[str, Any]:
    """The members of what is a mapping, a model of pydantic, or nothing."""
    if value is None:
        return {}
    return value if isinstance(value, Mapping) else value.model_dump()
