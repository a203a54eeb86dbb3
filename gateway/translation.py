# SPDX-License-Identifier: Apache-2.0
"""A chat completion as the response that the client asked for, whole or event by event.

Both ways the same steps make the same object. Each event has a line with its name and a number of its own; the last
one says how it ended, and no ``[DONE]`` follows.
"""

from typing import Any

import msgspec

from contract.errors import EngineFailed, MillraceError
from contract.money import NANO
from gateway.outputs import COMPLETED, IN_PROGRESS, INCOMPLETE, Event, Output
from gateway.usage import Delta, Document, Usage

_CUT_SHORT = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""The engine's reason to stop -> the response's."""
_message = msgspec.json.Decoder(Delta)


class _Logprobs(msgspec.Struct):
    content: list[dict[str, Any]] | None = None


class _Choice(msgspec.Struct):
    logprobs: _Logprobs | None = None


class _Answer(msgspec.Struct):
    """An answer, or a chunk of one, as far as `Document` leaves it out."""

    choices: list[_Choice] = []


_answer = msgspec.json.Decoder(_Answer)


class Translation:
    """One answer on its way to a client."""

    def __init__(
        self, response_id: str, model: str, echo: dict[str, Any], created: int, *, wants_logprobs: bool = False
    ) -> None:
        """``created`` is UTC seconds; ``echo`` what the response repeats of its request."""
        self._head = {"id": response_id, "object": "response", "created_at": created, "model": model}
        self._echo = echo
        self._wants_logprobs = wants_logprobs
        self._output = Output(response_id.rpartition("_")[2])
        self._reason: str | None = None
        """Why it is cut short, if it is."""
        self._number = 0
        """Of the next event."""

    def whole(self, data: bytes, read: Document, usage: Usage, cost: int) -> bytes:
        """The response to a plain request; ``cost`` in nano-dollars.

        Raises:
            EngineFailed: the engine's answer has no message.
        """
        if not read.choices or not bytes(read.choices[0].message):
            raise EngineFailed("the engine's answer has no message")
        try:
            said = _message.decode(read.choices[0].message)
        except msgspec.DecodeError as error:
            raise EngineFailed(f"the engine sent something that is no answer: {error}") from error
        for index, call in enumerate(said.tool_calls or ()):
            call.index = index
        self._output.take(said, self._logprobs(data))
        self._note(read.choices[0].finish_reason)
        self._output.end(self._status)
        return msgspec.json.encode(self._response(self._status, usage, cost))

    def events(self, data: bytes, read: Document) -> bytes:
        """The events of one chunk of a stream.

        Raises:
            EngineFailed: the engine goes on with what has ended.
        """
        if not read.choices:
            return b""
        found: list[Event] = []
        if self._number == 0:
            started = {"response": self._response(IN_PROGRESS)}
            found += [("response.created", started), ("response.in_progress", started)]
        choice = read.choices[0]
        if choice.delta is not None:
            found += self._output.take(choice.delta, self._logprobs(data))
        self._note(choice.finish_reason)
        return self._written(found)

    def end(self, usage: Usage, cost: int) -> bytes:
        """The last events of a stream; ``cost`` in nano-dollars."""
        ended = self._output.end(self._status)
        response = self._response(self._status, usage, cost)
        return self._written([*ended, (f"response.{self._status}", {"response": response})])

    def failed(self, error: MillraceError) -> bytes:
        """The events that end a stream which has begun and cannot go on.

        The second says it once more as the official clients look for it: they raise it.
        """
        self._output.cut()
        told = error.body()["error"]
        response = {**self._response("failed"), "error": {"code": "server_error", "message": error.message}}
        again = {"code": error.code, "message": error.message, "param": error.param, "error": told}
        return self._written([("response.failed", {"response": response}), ("error", again)])

    @property
    def _status(self) -> str:
        return COMPLETED if self._reason is None else INCOMPLETE

    def _note(self, finish_reason: str | None) -> None:
        self._reason = _CUT_SHORT.get(finish_reason or "", self._reason)

    def _response(self, status: str, usage: Usage | None = None, cost: int = 0) -> dict[str, Any]:
        ended: dict[str, Any] = {"usage": None}
        if usage is not None and usage.source != "estimated":
            # An estimate is for our records; a client takes a count for the engine's own.
            ended = {"usage": _usage(usage), "x_millrace_cost": f"{cost // NANO}.{cost % NANO:09d}"}
        return {
            **self._head,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": self._reason} if status == INCOMPLETE else None,
            "output": self._output.shown(),
            **self._echo,
            **ended,
        }

    def _logprobs(self, data: bytes) -> list[dict[str, Any]]:
        """Those of the tokens, where the client asked for them, as a response has them."""
        if not self._wants_logprobs:
            return []
        try:
            choices = _answer.decode(data).choices
        except msgspec.DecodeError as error:
            raise EngineFailed(f"the engine sent something that is no answer: {error}") from error
        given = choices[0].logprobs if choices else None
        return [_token(each) for each in (given and given.content) or ()]

    def _written(self, events: list[Event]) -> bytes:
        lines = []
        for name, members in events:
            told = msgspec.json.encode({"type": name, "sequence_number": self._number, **members})
            lines.append(b"event: %b\ndata: %b\n\n" % (name.encode(), told))
            self._number += 1
        return b"".join(lines)


def _usage(usage: Usage) -> dict[str, Any]:
    """As the schema has it, where what an engine does not tell is 0."""
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached or 0, "cache_write_tokens": 0},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning or 0},
        "total_tokens": usage.prompt + usage.completion,
    }


def _token(told: dict[str, Any]) -> dict[str, Any]:
    """The log-probability of a token; its bytes are a list, even where the engine does not tell them."""
    return {
        "token": told.get("token", ""),
        "bytes": told.get("bytes") or [],
        "logprob": told.get("logprob"),
        "top_logprobs": [
            {"token": other.get("token", ""), "bytes": other.get("bytes") or [], "logprob": other.get("logprob")}
            for other in told.get("top_logprobs") or ()
        ],
    }
