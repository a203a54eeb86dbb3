# SPDX-License-Identifier: Apache-2.0
"""Lines of JSON as records: what `millrace logs export` wrote, or chats with their answers (OpenAI's training format).

A record keeps its id; a chat gets one that derives from it. So what is in the log already is known by its id, and the
same file twice adds nothing.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from contract.columns import CURSOR, Kind, columns
from contract.errors import OperatorError
from contract.ids import derived_invocation_id
from contract.records import CHAT, KINDS, SCHEMA, Invocation, Record, Score, Status

_STAMPED = frozenset({"kind", CURSOR, "producer", "seq"})
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
_OF_CHAT = frozenset({"messages", "metadata", "tools", "parallel_tool_calls"})
_LEAST, _MOST = -(2**63), 2**63 - 1


class BadLine(OperatorError):
    """A line that is no record and no chat."""


@dataclass(frozen=True)
class Chats:
    """What a chat's record says of where it came from."""

    project: str
    secret: bytes
    """Of the installation; see `contract.ids`."""
    model: str | None
    """The public name that the answers are logged under; without it chats are refused."""
    time_ns: int


def read_records(path: Path, chats: Chats) -> Iterator[Record]:
    """The records of a file, one at a time.

    Raises:
        BadLine: naming file, line, field and value.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise BadLine(f"{path}: cannot be read: {error.strerror}") from None
    with file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield parse_line(line, chats)
                except BadLine as error:
                    raise BadLine(f"{path} line {number}: {error.message}") from None


def parse_line(line: bytes, chats: Chats) -> Record:
    """The record in one line.

    Raises:
        BadLine: naming field and value.
    """
    try:
        document = json.loads(line, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise BadLine(f"is no JSON: {error}") from None
    if not isinstance(document, dict):
        raise BadLine(f"is no JSON object: {_short(document)}")
    if "kind" in document:
        return _record(document)
    if "messages" in document:
        return _chat(document, chats)
    raise BadLine("has neither `kind`, as an exported record, nor `messages`, as a chat")


def _record(document: Mapping[str, Any]) -> Record:
    kind = KINDS.get(document["kind"]) if isinstance(document["kind"], str) else None
    if kind is None:
        raise BadLine(f"kind: {_short(document['kind'])}: is none of {', '.join(KINDS)}")
    known = {column.name: column for column in columns(kind)}
    values = {}
    for name, value in document.items():
        if name in _STAMPED:
            continue
        if name not in known:
            raise BadLine(f"{name}: {_short(value)}: is no column of {document['kind']}")
        if isinstance(value, int) and not _LEAST <= value <= _MOST:
            raise BadLine(f"{name}: {_short(value)}: does not fit into 64 bits")
        json_text = known[name].kind is Kind.JSON and not (value is None and known[name].nullable)
        values[name] = json.dumps(value, ensure_ascii=False) if json_text else value
    try:
        record = msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise BadLine(str(error)) from None
    _check(record)
    if isinstance(record, Score):
        record.position = 0  # a cursor of the log that it came from; the judge would go on behind it in this one
    return record


def _check(record: Record) -> None:
    """What types do not say."""
    for name in ("id", "project"):
        told = getattr(record, name, "-")
        if not told.strip() or not told.isprintable():
            raise BadLine(f"{name}: {_short(told)}: must be a text of printable characters")
    for name in ("time", "cost", "prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens"):
        if (getattr(record, name, None) or 0) < 0:
            raise BadLine(f"{name}: {getattr(record, name)}: must not be negative")
    if record.schema > SCHEMA:
        raise BadLine(f"schema: {record.schema}: is of a newer release; this one reads {SCHEMA}")
    if isinstance(record, Invocation) and record.status is Status.OPEN:
        raise BadLine("status: 'open': is no status of an answer that is in a log")


def _chat(document: Mapping[str, Any], chats: Chats) -> Invocation:
    if chats.model is None:
        raise BadLine("is a chat, so say which public model name it is logged under: --model NAME")
    for name, value in document.items():
        if name not in _OF_CHAT:
            raise BadLine(f"{name}: {_short(value)}: is no field of a chat; those are {', '.join(sorted(_OF_CHAT))}")
    messages = _messages(document["messages"])
    metadata = document.get("metadata")
    if metadata is not None and not (
        isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())
    ):
        raise BadLine(f"metadata: {_short(metadata)}: must be an object of texts")
    parameters = {name: document[name] for name in ("tools", "parallel_tool_calls") if name in document}
    answer = {name: value for name, value in messages[-1].items() if name != "weight"}
    reason = "tool_calls" if answer.get("tool_calls") else "stop"
    content = json.dumps([chats.project, chats.model, document], sort_keys=True).encode()
    return Invocation(
        id=derived_invocation_id(content, chats.project, chats.secret),
        time=chats.time_ns,
        project=chats.project,
        key="import",
        endpoint=CHAT,
        status=Status.COMPLETE,
        alias=chats.model,
        conversation=metadata.get("conversation") if metadata else None,
        metadata=json.dumps(metadata, ensure_ascii=False) if metadata else None,
        parameters=json.dumps(parameters, ensure_ascii=False) if parameters else None,
        messages=json.dumps(messages[:-1], ensure_ascii=False),
        choices=json.dumps([{"index": 0, "message": answer, "finish_reason": reason}], ensure_ascii=False),
        finish_reasons=[reason],
    )


def _messages(messages: object) -> list[dict[str, Any]]:
    if not isinstance(messages, list) or len(messages) < 2:
        raise BadLine(f"messages: {_short(messages)}: must be a prompt and its answer")
    for place, message in enumerate(messages):
        if not isinstance(message, dict):
            raise BadLine(f"messages[{place}]: {_short(message)}: must be an object")
        if message.get("role") not in _ROLES:
            raise BadLine(
                f"messages[{place}].role: {_short(message.get('role'))}: is none of {', '.join(sorted(_ROLES))}"
            )
    last = messages[-1]
    if last["role"] != "assistant" or not (last.get("content") or last.get("tool_calls")):
        raise BadLine(f"messages[{len(messages) - 1}]: {_short(last)}: the last must be the assistant's answer")
    return messages


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")
