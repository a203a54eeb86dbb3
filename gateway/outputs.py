# SPDX-License-Identifier: Apache-2.0
"""The output items of a response, made from the message of a chat completion as it comes.

Each step gives the events that tell of it, by name. An item ends when another one begins, or with the answer.
Source: the OpenAI API reference, "Streaming events" of the Responses API.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from contract.errors import EngineFailed
from gateway.usage import Delta, ToolCall

Event = tuple[str, dict[str, Any]]
"""Its type, and its members beside the sequence number."""
COMPLETED, IN_PROGRESS, INCOMPLETE = "completed", "in_progress", "incomplete"
_ID_PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc"}


@dataclass(slots=True)
class _Part:
    """A text inside of an item."""

    kind: str
    pieces: list[str] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def field(self) -> str:
        """What its text is called."""
        return "refusal" if self.kind == "refusal" else "text"

    def shown(self) -> dict[str, Any]:
        told: dict[str, Any] = {"type": self.kind, self.field: "".join(self.pieces)}
        return {**told, "annotations": [], "logprobs": list(self.logprobs)} if self.kind == "output_text" else told


@dataclass(slots=True)
class _Item:
    """A message, what was reasoned before it, or a call of a function."""

    kind: str
    id: str
    index: int
    status: str = IN_PROGRESS
    parts: list[_Part] = field(default_factory=list)
    call_id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)

    def shown(self) -> dict[str, Any]:
        told: dict[str, Any] = {"id": self.id, "type": self.kind, "status": self.status}
        if self.kind == "function_call":
            return {**told, "call_id": self.call_id, "name": self.name, "arguments": "".join(self.arguments)}
        parts = [part.shown() for part in self.parts]
        if self.kind == "reasoning":
            return {**told, "summary": [], "content": parts}
        return {**told, "role": "assistant", "content": parts}


class Output:
    """What has come of one answer."""

    def __init__(self, stem: str) -> None:
        """``stem`` makes the ids of its items its own."""
        self._stem = stem
        self._items: list[_Item] = []
        self._open: _Item | None = None
        self._calls: dict[int, _Item] = {}
        """By the engine's index."""

    def shown(self) -> list[dict[str, Any]]:
        """The items as they are now."""
        return [item.shown() for item in self._items]

    def take(self, said: Delta, logprobs: Iterable[dict[str, Any]] = ()) -> list[Event]:
        """What a piece of a message, or a whole one, adds; ``logprobs`` are those of its tokens.

        Raises:
            EngineFailed: it goes on with a call that has ended.
        """
        events: list[Event] = []
        reasoning = said.reasoning or said.reasoning_content
        if reasoning:
            self._say("reasoning", "reasoning_text", reasoning, (), events)
        if said.content:
            self._say("message", "output_text", said.content, logprobs, events)
        elif self._open is not None and self._open.parts and self._open.parts[-1].kind == "output_text":
            self._open.parts[-1].logprobs += logprobs  # of a token that has no text, such as the one that ends it
        if said.refusal:
            self._say("message", "refusal", said.refusal, (), events)
        for call in said.tool_calls or ():
            self._add_to_call(call, events)
        return events

    def end(self, status: str) -> list[Event]:
        """Nothing more comes; ``status`` is that of the last item."""
        events: list[Event] = []
        if not self._items:
            self._begin_part(self._begin("message", events), "output_text", events)
        self._end_item(status, events)
        return events

    def cut(self) -> None:
        """Nothing more comes, and the answer is not whole."""
        if self._open is not None:
            self._open.status = INCOMPLETE

    def _say(
        self, kind: str, part_kind: str, text: str, logprobs: Iterable[dict[str, Any]], events: list[Event]
    ) -> None:
        item = self._open
        if item is None or item.kind != kind:
            self._end_item(COMPLETED, events)
            item = self._begin(kind, events)
        if not item.parts or item.parts[-1].kind != part_kind:
            self._end_part(item, events)
            self._begin_part(item, part_kind, events)
        part = item.parts[-1]
        part.pieces.append(text)
        members: dict[str, Any] = {**_place_of_part(item), "delta": text}
        if part_kind == "output_text":
            members["logprobs"] = list(logprobs)
            part.logprobs += members["logprobs"]
        events.append((f"response.{part_kind}.delta", members))

    def _add_to_call(self, piece: ToolCall, events: list[Event]) -> None:
        item = self._calls.get(piece.index)
        if item is None:
            self._end_item(COMPLETED, events)
            item = self._begin_call(piece, events)
        elif item is not self._open:
            raise EngineFailed("the engine went on with a tool call after it had begun something else")
        elif piece.function is not None:
            item.name += piece.function.name or ""
        arguments = piece.function and piece.function.arguments
        if arguments:
            item.arguments.append(arguments)
            events.append(("response.function_call_arguments.delta", {**_place(item), "delta": arguments}))

    def _begin(self, kind: str, events: list[Event], call_id: str = "", name: str = "") -> _Item:
        index = len(self._items)
        item = _Item(kind, f"{_ID_PREFIXES[kind]}_{self._stem}_{index}", index, call_id=call_id, name=name)
        self._open = item
        self._items.append(item)
        events.append(("response.output_item.added", {"output_index": index, "item": item.shown()}))
        return item

    def _begin_call(self, piece: ToolCall, events: list[Event]) -> _Item:
        name = (piece.function and piece.function.name) or ""
        call_id = piece.id or f"call_{self._stem}_{len(self._items)}"
        item = self._calls[piece.index] = self._begin("function_call", events, call_id, name)
        return item

    def _end_item(self, status: str, events: list[Event]) -> None:
        item, self._open = self._open, None
        if item is None:
            return
        if item.kind == "function_call":
            told = {"name": item.name, "arguments": "".join(item.arguments)}
            events.append(("response.function_call_arguments.done", {**_place(item), **told}))
        self._end_part(item, events)
        item.status = status
        events.append(("response.output_item.done", {"output_index": item.index, "item": item.shown()}))

    def _begin_part(self, item: _Item, kind: str, events: list[Event]) -> None:
        part = _Part(kind)
        item.parts.append(part)
        events.append(("response.content_part.added", {**_place_of_part(item), "part": part.shown()}))

    def _end_part(self, item: _Item, events: list[Event]) -> None:
        if not item.parts:
            return
        part, place = item.parts[-1], _place_of_part(item)
        shown = part.shown()
        told = {name: shown[name] for name in (part.field, "logprobs") if name in shown}
        events.append((f"response.{part.kind}.done", {**place, **told}))
        events.append(("response.content_part.done", {**place, "part": shown}))


def _place(item: _Item) -> dict[str, Any]:
    return {"item_id": item.id, "output_index": item.index}


def _place_of_part(item: _Item) -> dict[str, Any]:
    """That of its last part."""
    return {**_place(item), "content_index": len(item.parts) - 1}
