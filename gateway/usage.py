# SPDX-License-Identifier: Apache-2.0
"""The meter: reads what an engine says of its work off the answer that passes by.

It only looks; what the client gets is cut in `gateway.shape`. Absent usage is not zero usage: it is counted from token
ids where the engine gave them, else estimated, and the source says which.

Engines report usage in a stream in three ways, and all are understood:

- on one last chunk without choices (OpenAI);
- on one last chunk that still has choices;
- running, on every chunk (vLLM's ``continuous_usage_stats``): then a chunk's completion count is of *its* choice
  alone, so with n > 1 the choices' last counts are added up.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from contract.records import UsageSource

BYTES_PER_TOKEN = 4
"""For estimates: a usual English token."""


class Usage(NamedTuple):
    """Tokens of one invocation; ``prompt`` includes the cached ones, ``completion`` the reasoning."""

    prompt: int
    completion: int
    cached: int | None
    reasoning: int | None
    source: UsageSource


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _CompletionDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class _Reported(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None


class _Token(msgspec.Struct):
    logprob: float


class _Logprobs(msgspec.Struct):
    content: list[_Token] | None = None
    token_logprobs: list[float | None] | None = None
    """As completions without messages have them; that of a prompt's first token is null."""


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class ToolCall(msgspec.Struct):
    """A piece of a call, or a whole one, which has no index."""

    index: int = 0
    id: str | None = None
    function: _Function | None = None


class Delta(msgspec.Struct):
    """A piece of a message, or, as their fields are the same, a whole one."""

    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None


_ABSENT = msgspec.Raw()
_MOST_TOKENS = 2**40
"""Of one answer; a count above says nothing."""


class _Choice(msgspec.Struct):
    index: int = 0
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None
    token_ids: list[int] | None = None
    delta: Delta | None = None
    message: msgspec.Raw = _ABSENT
    text: str | None = None
    """Of a completion without messages, streamed or whole."""
    prompt_token_ids: list[int] | None = None


class _Said(msgspec.Struct):
    content: Any = None


class Document(msgspec.Struct):
    """A whole answer, or one chunk of a stream, as far as anything here depends on it."""

    id: str = ""
    model: str = ""
    choices: list[_Choice] | msgspec.UnsetType = msgspec.UNSET
    usage: _Reported | msgspec.UnsetType | None = msgspec.UNSET
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    """The vectors of an answer with embeddings."""
    prompt_token_ids: list[int] | None = None
    created: Any = None
    error: msgspec.Raw = _ABSENT

    @property
    def failed(self) -> bool:
        """Whether it tells of an error."""
        return self.error is not _ABSENT and bytes(self.error) != b"null"


class _Kept(msgspec.Struct):
    """One choice as the record has it."""

    index: int
    message: msgspec.Raw | dict[str, Any]
    finish_reason: str | None


_document = msgspec.json.Decoder(Document)
_said = msgspec.json.Decoder(_Said | None)
_encoder = msgspec.json.Encoder()


class _Answer(msgspec.Struct):
    """One choice as it has come so far."""

    texts: dict[str, list[str]] = {}
    tools: dict[int, dict[str, Any]] = {}
    message: msgspec.Raw = _ABSENT
    said: Any = None
    """The content of `message`."""
    finish_reason: str | None = None
    token_ids: list[int] = []
    logprobs: list[float] = []
    pieces: int = 0

    def estimate(self) -> int:
        """Tokens, by what there is: the pieces of a stream, the length of a whole answer."""
        if self.message is _ABSENT:
            return self.pieces
        return len(self.said.encode()) // BYTES_PER_TOKEN if isinstance(self.said, str) else 0

    def as_message(self) -> msgspec.Raw | dict[str, Any]:
        if self.message is not _ABSENT:
            return self.message
        said = {name: "".join(parts) for name, parts in self.texts.items()}
        message: dict[str, Any] = {"role": "assistant", "content": said.pop("content", None), **said}
        if self.tools:
            message["tool_calls"] = [self.tools[index] for index in sorted(self.tools)]
        return message


class Meter:
    """Everything the record needs to know of one answer, streamed or whole."""

    __slots__ = (
        "_answers", "_payload", "_prompt", "_prompts", "_reports", "_running", "_total", "_unreported", "created",
    )  # fmt: skip

    def __init__(self, *, payload: bool = True) -> None:
        """With ``payload`` off the text of a stream is not held, only counted."""
        self._payload = payload
        self._answers: dict[int, _Answer] = {}
        self._total: _Reported | None = None
        self._running: dict[int, _Reported] = {}
        self._reports = 0
        self._unreported = 0
        """Pieces that came after the last report."""
        self._prompt: list[int] | None = None
        self._prompts: dict[int, list[int]] = {}
        self.created: object = None
        """When the engine says that it made the answer: UTC seconds, where it does."""

    def read(self, data: bytes) -> Document:
        """Takes note of one chunk of a stream, or of a whole answer.

        Raises:
            msgspec.DecodeError: it is no JSON, or has not the shape of either.
        """
        try:
            if not data.isascii():
                data.decode()  # what nothing here looks at is not checked by the decoder, and goes on as it is
            document = _document.decode(data)
            choices = document.choices or []
            for choice in choices:
                self._read_choice(choice)
        except (UnicodeDecodeError, RecursionError) as error:
            raise msgspec.DecodeError(str(error)) from error
        if document.usage:
            self._read_usage(document.usage, choices)
        self._prompt = document.prompt_token_ids or self._prompt
        self.created = document.created
        return document

    def usage(self, prompt_bytes: int, n: int = 1) -> Usage:
        """Tokens so far: reported, else counted, else estimated from ``prompt_bytes`` and the pieces received.

        ``n`` answers belong to each prompt: running counts of a prompt are the same on all of them.
        """
        if self._total is not None:
            return _as_usage(self._total)
        added_up = self._added_up(n)
        if added_up is not None and self._unreported:
            return added_up._replace(completion=added_up.completion + self._unreported, source="estimated")
        if added_up is not None:
            return added_up
        ids = sum(len(answer.token_ids) for answer in self._answers.values())
        if self.prompt_token_ids is not None:
            return Usage(len(self.prompt_token_ids), ids, None, None, "counted")
        pieces = ids or sum(answer.estimate() for answer in self._answers.values())
        return Usage(-(-prompt_bytes // BYTES_PER_TOKEN), pieces, None, None, "estimated")

    @property
    def prompt_token_ids(self) -> list[int] | None:
        """The prompt as the engine saw it, where it says so and there is one alone."""
        if self._prompt is not None or not self._prompts:
            return self._prompt
        first, *others = self._prompts.values()
        return None if any(other != first for other in others) else first

    @property
    def started(self) -> bool:
        """Whether anything of an answer has been seen."""
        return bool(self._answers) or self._reports > 0

    @property
    def choices(self) -> str:
        """``[{index, message, finish_reason}]`` as far as they have come, as JSON."""
        return _encoder.encode(
            [_Kept(index, answer.as_message(), answer.finish_reason) for index, answer in self._in_order()]
        ).decode()

    @property
    def finish_reasons(self) -> list[str]:
        """Per choice that has finished, by index."""
        return [answer.finish_reason for _, answer in self._in_order() if answer.finish_reason is not None]

    @property
    def token_ids(self) -> list[list[int]]:
        """Sampled tokens per choice, where the engine gave them."""
        return [answer.token_ids for _, answer in self._in_order()]

    @property
    def logprobs(self) -> list[list[float]]:
        """Log-probability of each sampled token per choice, where the engine gave them; not those of an echo."""
        return [answer.logprobs[-len(answer.token_ids) :] for _, answer in self._in_order()]

    def _in_order(self) -> Iterable[tuple[int, _Answer]]:
        items = self._answers.items()
        return items if len(items) < 2 else sorted(items)

    def _read_choice(self, choice: _Choice) -> None:
        answer = self._answers.get(choice.index)
        if answer is None:
            answer = self._answers[choice.index] = _Answer()
        if choice.finish_reason is not None:
            answer.finish_reason = choice.finish_reason
        if choice.token_ids is not None:
            answer.token_ids += choice.token_ids
        if choice.logprobs is not None:
            if choice.logprobs.content:
                answer.logprobs += [token.logprob for token in choice.logprobs.content]
            if choice.logprobs.token_logprobs:
                answer.logprobs += [value for value in choice.logprobs.token_logprobs if value is not None]
        if choice.text:
            pieces = max(1, len(choice.text.encode()) // BYTES_PER_TOKEN)  # a whole answer is one piece
            answer.pieces += pieces
            self._unreported += pieces
            if self._payload:
                answer.texts.setdefault("content", []).append(choice.text)
        if choice.prompt_token_ids is not None:
            self._prompts[choice.index] = choice.prompt_token_ids
        if choice.message is not _ABSENT:
            said = _said.decode(choice.message)
            answer.message, answer.said = choice.message, said and said.content
        if choice.delta is not None:
            self._read_delta(answer, choice.delta)

    def _read_delta(self, answer: _Answer, delta: Delta) -> None:
        reasoning = delta.reasoning or delta.reasoning_content
        if delta.content or reasoning or delta.refusal or delta.tool_calls:
            answer.pieces += 1
            self._unreported += 1
        if not self._payload:
            return
        if delta.content is not None:
            answer.texts.setdefault("content", []).append(delta.content)
        if reasoning is not None:
            answer.texts.setdefault("reasoning", []).append(reasoning)
        if delta.refusal is not None:
            answer.texts.setdefault("refusal", []).append(delta.refusal)
        for call in delta.tool_calls or ():
            _add_to_call(answer.tools, call)

    def _read_usage(self, reported: _Reported, choices: list[_Choice]) -> None:
        if not _possible(reported):
            return
        self._reports += 1
        self._unreported = 0
        if not choices or choices[0].message is not _ABSENT:
            self._total = reported
        else:
            for choice in choices:
                self._running[choice.index] = reported

    def _added_up(self, n: int) -> Usage | None:
        if not self._running:
            return None
        last = _as_usage(list(self._running.values())[-1])
        if self._reports == 1:
            return last
        completion = sum(report.completion_tokens or 0 for report in self._running.values())
        reasoning = [_as_usage(report).reasoning for report in self._running.values()]
        known = [count for count in reasoning if count is not None]
        prompts = {index // n: report.prompt_tokens for index, report in self._running.items()}
        return Usage(sum(prompts.values()), completion, last.cached, sum(known) if known else None, "reported")


def _add_to_call(tools: dict[int, dict[str, Any]], piece: ToolCall) -> None:
    call = tools.setdefault(piece.index, {"id": None, "type": "function", "function": {"name": "", "arguments": ""}})
    call["id"] = call["id"] or piece.id
    if piece.function is not None:
        call["function"]["name"] += piece.function.name or ""
        call["function"]["arguments"] += piece.function.arguments or ""


def _possible(reported: _Reported) -> bool:
    """Whether the counts can be true; counts that cannot are as good as none."""
    usage = _as_usage(reported)
    return (
        _MOST_TOKENS >= usage.prompt >= (usage.cached or 0) >= 0
        and _MOST_TOKENS >= usage.completion >= 0
        and _MOST_TOKENS >= (usage.reasoning or 0) >= 0
    )


def _as_usage(reported: _Reported) -> Usage:
    prompt, completion = reported.prompt_tokens_details, reported.completion_tokens_details
    return Usage(
        reported.prompt_tokens,
        reported.completion_tokens or 0,
        prompt.cached_tokens if prompt else None,
        completion.reasoning_tokens if completion else None,
        "reported",
    )
