# SPDX-License-Identifier: Apache-2.0
"""Every record, declared once.

A record is a `msgspec.Struct`; its fields, their types and their descriptions are the declaration. The codec
(MessagePack), the DDL and the Arrow schema (`contract.columns`) and the reference page are derived from it, and a
test fails on drift.

Every record carries ``kind`` (the struct's tag), ``schema`` (version of its declaration), ``id``, ``producer`` and
``seq`` (stamped by the spool that takes it: dense per producer, which is the whole of de-duplication) and ``time``.

Changing a record: add fields with a default at the end and raise ``SCHEMA``; never rename, remove or retype. A
reader meets an older record with defaults and refuses a newer one (`NewerRecord`), which ingestion sends to the
dead-letter table.
"""

import enum
from typing import Annotated, Literal, cast

import msgspec
from msgspec import Meta

SCHEMA = 2
"""The schema version written by this release; one number for all kinds."""

CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
OF_MESSAGES = (CHAT, RESPONSES)
"""The endpoints whose prompts are recorded as messages, and their answers as those of a chat completion."""
Json = Annotated[str, Meta(extra={"column": "json"})]
"""A JSON text, kept as text between processes and as VARIANT in the store."""


class Status(enum.StrEnum):
    """How an invocation ended. `OPEN` exists in the spool only: a stream that has not ended yet."""

    OPEN = "open"
    COMPLETE = "complete"
    INTERRUPTED = "interrupted"
    ABORTED = "aborted"
    FAILED = "failed"
    REFUSED = "refused"


UsageSource = Literal["reported", "counted", "estimated"]


class Record(msgspec.Struct, kw_only=True, tag_field="kind", gc=False):
    """What every record carries. Mutable only so that the spool can stamp ``producer`` and ``seq`` without a copy.

    The collector of cycles leaves records alone: thousands are alive at a time, and none can refer to another.
    """

    id: Annotated[str, Meta(description="unique id of the record")]
    time: Annotated[int, Meta(description="when it happened, UTC nanoseconds")]
    schema: Annotated[int, Meta(description="schema version of the declaration it was written with")] = SCHEMA
    producer: Annotated[str, Meta(description="the spool that took it")] = ""
    seq: Annotated[int, Meta(description="position in that spool, dense from 0")] = -1


class Invocation(Record, kw_only=True, tag="invocation"):
    """One request to a model and all that is known of its answer. A status of ``open`` never reaches the store."""

    project: Annotated[str, Meta(description="project that pays")]
    key: Annotated[str, Meta(description="id of the key used, never the key")]
    endpoint: Annotated[str, Meta(description="route, such as /v1/chat/completions")]
    status: Annotated[Status, Meta(description="complete, interrupted, aborted, failed or refused")]
    alias: Annotated[str, Meta(description="public model name that was asked for")] = ""
    version: Annotated[
        str,
        Meta(description="what answered: alias@digest12, the base model's name, or the provider's name of its model"),
    ] = ""
    replica: Annotated[str, Meta(description="engine replica or provider that answered")] = ""
    attempts: Annotated[int, Meta(description="upstream attempts made")] = 0
    stream: Annotated[bool, Meta(description="whether the client asked for a stream")] = False
    user: Annotated[str | None, Meta(description="the request's user, or safety_identifier")] = None
    conversation: Annotated[str | None, Meta(description="metadata.conversation of the request")] = None
    metadata: Annotated[Json | None, Meta(description="the request's metadata")] = None
    parameters: Annotated[Json | None, Meta(description="effective parameters sent to the engine")] = None
    messages: Annotated[Json | None, Meta(description="the prompt, by payload policy")] = None
    choices: Annotated[
        Json | None, Meta(description="the answers, by payload policy: [{index, message, finish_reason}]")
    ] = None
    prompt_token_ids: Annotated[list[int] | None, Meta(description="the prompt as the engine saw it, by policy")] = None
    completion_token_ids: Annotated[
        list[list[int]] | None, Meta(description="sampled tokens per choice, by policy")
    ] = None
    logprobs: Annotated[
        list[list[float]] | None, Meta(description="logprob of each sampled token per choice, by policy")
    ] = None
    prompt_tokens: Annotated[
        int | None, Meta(description="tokens of the prompt, cached ones included; null: unknown, not 0")
    ] = None
    cached_tokens: Annotated[int | None, Meta(description="prompt tokens served from the prefix cache")] = None
    completion_tokens: Annotated[int | None, Meta(description="tokens of all answers, reasoning included")] = None
    reasoning_tokens: Annotated[
        int | None, Meta(description="tokens of reasoning, where the engine tells them apart")
    ] = None
    usage_source: Annotated[
        UsageSource | None, Meta(description="reported by the engine, counted from tokens, or estimated")
    ] = None
    cost: Annotated[int | None, Meta(description="nano-dollars")] = None
    price_version: Annotated[str | None, Meta(description="price that the cost was computed with")] = None
    finish_reasons: Annotated[list[str] | None, Meta(description="finish reason per choice")] = None
    http_status: Annotated[int | None, Meta(description="status sent to the client")] = None
    error_code: Annotated[str | None, Meta(description="code of the error sent to the client")] = None
    queue_ns: Annotated[int | None, Meta(description="nanoseconds from arrival to the upstream request")] = None
    first_byte_ns: Annotated[
        int | None, Meta(description="nanoseconds from arrival to the first byte of the answer")
    ] = None
    total_ns: Annotated[int | None, Meta(description="nanoseconds from arrival to the last byte")] = None
    overhead_ns: Annotated[int | None, Meta(description="total less the time spent waiting for the engine")] = None
    stored: Annotated[
        Json | None,
        Meta(description="model and created of the answer, where the client asked to store it; null: it did not"),
    ] = None


class Score(Record, kw_only=True, tag="score"):
    """One grader's opinion of one answer: a value, or the kind of error that kept it from having one."""

    project: Annotated[str, Meta(description="project of the invocation")]
    invocation: Annotated[str, Meta(description="id of the invocation")]
    grader: Annotated[str, Meta(description="name of the grader in the settings")]
    grader_version: Annotated[str, Meta(description="first 12 hex digits of the digest of its specification")]
    position: Annotated[
        int, Meta(description="cursor of the log row that caused it: the judge resumes after the largest")
    ]
    choice: Annotated[int, Meta(description="index of the answer")] = 0
    value: Annotated[float | None, Meta(description="the score; null when there is an error")] = None
    error: Annotated[str | None, Meta(description="kind of error; null when there is a value")] = None
    parts: Annotated[Json | None, Meta(description="values of the parts of a composed grader")] = None
    reason: Annotated[str | None, Meta(description="why, in words")] = None
    cost: Annotated[int, Meta(description="nano-dollars spent on the judge model")] = 0


class Feedback(Record, kw_only=True, tag="feedback"):
    """What a user of the application said of an answer or a conversation."""

    project: Annotated[str, Meta(description="project of the key that posted it")]
    metric: Annotated[str, Meta(description="name declared under log.feedback")]
    value: Annotated[Json, Meta(description="the typed value")]
    invocation: Annotated[str | None, Meta(description="id of the invocation, or null")] = None
    choice: Annotated[int | None, Meta(description="index of the answer where n > 1")] = None
    conversation: Annotated[str | None, Meta(description="id of the conversation, or null")] = None
    author: Annotated[str | None, Meta(description="who said it, as the application names them")] = None


class Charge(Record, kw_only=True, tag="charge"):
    """Everything on a bill that is no invocation."""

    project: Annotated[str, Meta(description="project that pays or is credited")]
    category: Annotated[Literal["training", "credit", "correction"], Meta(description="training, credit or correction")]
    amount: Annotated[int, Meta(description="nano-dollars; negative for a credit")]
    seconds: Annotated[int | None, Meta(description="seconds of training wall time")] = None
    job: Annotated[str | None, Meta(description="training job")] = None
    description: Annotated[str | None, Meta(description="for the statement")] = None


class Decision(Record, kw_only=True, tag="decision"):
    """What the loop decided by itself, with every figure it used."""

    action: Annotated[
        str, Meta(description="start_job, skip_run, admit, refuse, load, promote, roll_back, retire, pause_grader")
    ]
    subject: Annotated[str, Meta(description="version, job, loop or grader that it is about")]
    reason: Annotated[str, Meta(description="why, in words")]
    figures: Annotated[Json, Meta(description="every number that led to it")]
    alias: Annotated[str | None, Meta(description="public model name concerned")] = None


class Erasure(Record, kw_only=True, tag="erasure"):
    """Payload, metadata and user ids are taken out; the meter part stays."""

    project: Annotated[str, Meta(description="project")]
    by: Annotated[str, Meta(description="who asked for it")]
    user: Annotated[str | None, Meta(description="all invocations of this user until then")] = None
    invocation: Annotated[str | None, Meta(description="this one invocation")] = None


class Amendment(Record, kw_only=True, tag="amendment"):
    """The metadata of one invocation is replaced; the newest by its time holds."""

    project: Annotated[str, Meta(description="project")]
    by: Annotated[str, Meta(description="id of the key that asked for it")]
    invocation: Annotated[str, Meta(description="the invocation")]
    metadata: Annotated[Json | None, Meta(description="its metadata from then on; null: it has none, or was erased")]


class TrainingStep(Record, kw_only=True, tag="training_step"):
    """The metrics of one optimiser step of a job."""

    job: Annotated[str, Meta(description="training job")]
    step: Annotated[int, Meta(description="from 1")]
    total_steps: Annotated[int, Meta(description="planned steps")]
    metrics: Annotated[
        Json, Meta(description="name -> number: reward, spread, entropy, gradient norm, seconds per phase, …")
    ]


AnyRecord = Invocation | Score | Feedback | Charge | Decision | Erasure | Amendment | TrainingStep
KINDS: dict[str, type[Record]] = {
    cast(str, kind.__struct_config__.tag): kind
    for kind in (Invocation, Score, Feedback, Charge, Decision, Erasure, Amendment, TrainingStep)
}


class NewerRecord(ValueError):
    """A record written by a newer release than this one."""


class _Header(msgspec.Struct):
    kind: str
    schema: int = SCHEMA


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(AnyRecord)
_header_decoder = msgspec.msgpack.Decoder(_Header)


def encode(record: Record) -> bytes:
    """The record as MessagePack: a map with its kind and every field by name."""
    return _encoder.encode(record)


def decode(payload: bytes | memoryview) -> AnyRecord:
    """The record in ``payload``.

    Raises:
        NewerRecord: its schema version is above `SCHEMA`, or its kind is not known here.
        msgspec.DecodeError: it is no record, or a field has the wrong type (`msgspec.ValidationError`).
    """
    try:
        record: AnyRecord = _decoder.decode(payload)
    except msgspec.DecodeError:
        header = _header_decoder.decode(payload)
        if header.schema > SCHEMA or header.kind not in KINDS:
            raise _newer(header.kind, header.schema) from None
        raise
    if record.schema > SCHEMA:
        raise _newer(record.__struct_config__.tag, record.schema)
    return record


def _newer(kind: object, schema: int) -> NewerRecord:
    return NewerRecord(f"a {kind!r} of schema {schema}; this release reads schema {SCHEMA}")
