# SPDX-License-Identifier: Apache-2.0
"""``POST /v1/chat/completions``: the path of a request, top to bottom.

key -> place in flight -> body -> version -> replica -> engine -> meter -> spool -> last byte. However it ends, exactly
one record of it is in the spool, and a client that got a whole answer got it after that record was written.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator

import msgspec
from starlette.types import Receive, Scope, Send

from contract.errors import (
    EngineFailed,
    EngineUnavailable,
    InternalError,
    MillraceError,
    OperatorError,
    Overloaded,
    SpoolError,
    StorageFull,
)
from contract.ids import new_invocation_id
from contract.money import NANO, format_usd
from contract.records import Status
from gateway import metrics
from gateway.client import ClientGone, ClientWatch, Reply, header, read_body
from gateway.complaints import LostModel, complaint
from gateway.entry import Entry
from gateway.fields import parse_body, parse_chat
from gateway.routes import Replica
from gateway.shape import Shape
from gateway.splice import Members, members
from gateway.sse import DONE, Splitter, data_of, event_of
from gateway.upstream import Answer
from gateway.worker import Worker

ENDPOINT = "/v1/chat/completions"
_log = logging.getLogger(__name__)


class Relay:
    """The ASGI application behind the route."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request.

        Raises:
            MillraceError: it ended badly before the first byte of an answer; the application renders it.
        """
        worker: Worker = scope["app"].state.worker
        key = worker.keys.authenticate(header(scope, b"authorization"), time.time_ns())
        worker.accept()
        invocation = new_invocation_id(key.project, worker.secret)
        entry = Entry(invocation, key, ENDPOINT, worker.settings.log.policy)
        scope["state"]["request_id"] = invocation
        reply = Reply(send)
        try:
            await _serve(worker, entry, scope, receive, reply)
        except ClientGone:
            _close(worker, entry, Status.ABORTED, reply.status)
        except OperatorError:
            await _defect(worker, entry, reply)
        except MillraceError as error:
            await _fail(worker, entry, reply, error)
        except asyncio.CancelledError:
            # Only the end of the drain timeout cancels a request; its task ends here, with an answer.
            leaving = Overloaded("the server is shutting down", code="shutting_down", retry_after=1.0)
            _close(worker, entry, Status.INTERRUPTED, reply.status or leaving.status, leaving.code)
            await _tell(reply, leaving)
        except Exception:
            await _defect(worker, entry, reply)
        finally:
            scope["state"]["model"] = entry.model_label


async def _serve(worker: Worker, entry: Entry, scope: Scope, receive: Receive, reply: Reply) -> None:
    reservation = worker.limits.reserve()
    try:
        body = parse_body(await read_body(scope, receive, worker.settings.gateway.max_body))
        entry.asked = str(body.get("model", ""))[:256]
        entry.request = parse_chat(body, worker.settings.gateway)
        entry.target = worker.routes.snapshot.resolve(entry.request.model)
        async with ClientWatch(receive):
            await _answer(worker, entry, reply)
    finally:
        reservation.settle()


async def _answer(worker: Worker, entry: Entry, reply: Reply) -> None:
    """Up to two attempts, the second only while no byte has gone out."""
    assert entry.request is not None and entry.target is not None
    tried: list[str] = []
    for last in (False, True):
        replica = await worker.routes.pick(entry.target, tried)
        try:
            return await _attempt(worker, entry, replica, reply)
        except LostModel:
            # The replica restarted, or the alias moved on and the old version is gone: what is true now?
            if last or reply.started:
                raise
            replica.served -= {entry.target.version}
            await worker.refresh_names()
            entry.target = worker.routes.snapshot.resolve(entry.request.model)
        except (EngineUnavailable, EngineFailed) as error:
            replica.saw(error)
            tried.append(replica.name)
            if last or reply.started or len(tried) == len(worker.routes.replicas[entry.target.engine]):
                raise
    return None


async def _attempt(worker: Worker, entry: Entry, replica: Replica, reply: Reply) -> None:
    assert entry.request is not None and entry.target is not None
    request, target, tokens = entry.request, entry.target, worker.settings.log.policy.tokens
    body = request.upstream(target.version, worker.cache_salt(entry.key.project), tokens=tokens)
    shape = Shape(
        model=target.asked,
        response_id=f"chatcmpl-{entry.invocation}",
        include_usage=request.include_usage,
        hide_tokens=tokens,
        hide_logprobs=tokens and not request.wants_logprobs,
    )
    entry.replica = replica
    entry.goes_upstream()
    async with worker.upstream.post(f"{replica.url}{ENDPOINT}", body, entry.invocation, entry.watch) as answer:
        if answer.status != 200:
            raise complaint(answer.status, await answer.body(), target)
        if request.stream:
            await _stream(worker, entry, answer, shape, reply)
        else:
            await _plain(worker, entry, answer, shape, reply)


async def _plain(worker: Worker, entry: Entry, answer: Answer, shape: Shape, reply: Reply) -> None:
    document = _read(entry, await answer.body())
    if "choices" not in document:
        raise EngineFailed("the engine's answer has no choices")
    entry.first_byte()
    record = entry.close(worker.spool, worker.prices, Status.COMPLETE, 200)
    _count(worker, entry)
    body = shape.whole(document)
    headers = [("content-type", "application/json"), ("content-length", str(len(body))), *_headers(entry)]
    if record.cost is not None:
        headers.append(("x-millrace-cost", format_usd(record.cost, 9).removeprefix("$")))
    await reply.start(200, headers)
    await reply.end(body)


async def _stream(worker: Worker, entry: Entry, answer: Answer, shape: Shape, reply: Reply) -> None:
    async for piece in _events(answer):
        out: list[bytes] = []
        for event in piece:
            data = data_of(event)
            if data == DONE:
                return await _finish(worker, entry, answer, shape, reply, b"".join(out))
            if data is None:
                out.append(event)  # a comment, such as a sign of life
                continue
            document = _read(entry, data)
            if "error" in document:
                if reply.started:
                    await reply.send(b"".join(out))
                raise complaint(None, data, entry.target)
            cut = shape.chunk(document)
            out.append(event_of(cut) if cut is not None else b"")
        if entry.meter.started and not reply.started:
            await _begin(worker, entry, reply)
        if reply.started:
            await reply.send(b"".join(out))
    raise EngineFailed("the engine ended its stream without saying that it was done")


async def _begin(worker: Worker, entry: Entry, reply: Reply) -> None:
    entry.open(worker.spool)
    worker.metrics.observe(metrics.FIRST_TOKEN, (entry.model_label,), entry.first_byte() / NANO)
    headers = [("content-type", "text/event-stream; charset=utf-8"), ("cache-control", "no-cache")]
    await reply.start(200, [*headers, *_headers(entry)])


async def _finish(worker: Worker, entry: Entry, answer: Answer, shape: Shape, reply: Reply, rest: bytes) -> None:
    if not entry.meter.started:
        raise EngineFailed("the engine's stream is empty")
    if not reply.started:
        await _begin(worker, entry, reply)
    assert entry.request is not None
    usage = shape.missing_usage(entry.meter.usage(entry.request.prompt_bytes))
    await answer.settle()
    entry.close(worker.spool, worker.prices, Status.COMPLETE, 200)
    _count(worker, entry)
    await reply.end(rest + (event_of(usage) if usage is not None else b"") + event_of(DONE))


async def _events(answer: Answer) -> AsyncIterator[list[bytes]]:
    """The events of the stream, those that came together in one list."""
    splitter = Splitter()
    while piece := await answer.piece():
        events = splitter.feed(piece)
        if events:
            yield events


def _read(entry: Entry, document: bytes) -> Members:
    """Parses and meters; what is no answer of an engine is its failure."""
    try:
        parts = members(document)
        entry.meter.read(parts)
    except msgspec.DecodeError as error:
        raise EngineFailed(f"the engine sent something that is no answer: {error}") from error
    return parts


async def _defect(worker: Worker, entry: Entry, reply: Reply) -> None:
    _log.exception("request %s", entry.invocation)
    await _fail(worker, entry, reply, InternalError("an error of this server; its log has the details"))


async def _fail(worker: Worker, entry: Entry, reply: Reply, error: MillraceError) -> None:
    """Records a request that ended badly, and tells the client in the way that is still open."""
    turned_away = error.status < 500 or (entry.attempts == 0 and isinstance(error, Overloaded))
    refused = turned_away and not reply.started
    status = Status.REFUSED if refused else Status.FAILED
    _close(worker, entry, status, reply.status or error.status, error.code)
    await _tell(reply, error)


async def _tell(reply: Reply, error: MillraceError) -> None:
    if not reply.started:
        raise error
    await reply.break_off(error)


def _close(worker: Worker, entry: Entry, status: Status, http_status: int | None, code: str | None = None) -> None:
    """Records an end that is no answer; a spool without room for it does not stop the client from hearing of it."""
    if entry.closed is not None:
        return
    try:
        entry.close(worker.spool, worker.prices, status, http_status, code)
        _count(worker, entry)
    except (StorageFull, SpoolError) as error:
        worker.metrics.count(metrics.DROPPED, ("end",))
        _log.error("the end of request %s (%s) is not in the log: %s", entry.invocation, status, error)


def _count(worker: Worker, entry: Entry) -> None:
    record, model, counted = entry.closed, entry.model_label, worker.metrics
    assert record is not None and record.overhead_ns is not None
    counted.count(metrics.ENDED, (model, record.status.value))
    counted.observe(metrics.OVERHEAD, (ENDPOINT, model), record.overhead_ns / NANO)
    kinds = {
        "prompt": record.prompt_tokens,
        "cached": record.cached_tokens,
        "completion": record.completion_tokens,
        "reasoning": record.reasoning_tokens,
    }
    for kind, tokens in kinds.items():
        if tokens:
            counted.count(metrics.TOKENS, (model, kind), tokens)
    if record.cost:
        counted.count(metrics.COST, (model,), record.cost / NANO)


def _headers(entry: Entry) -> list[tuple[str, str]]:
    assert entry.target is not None
    return [
        ("openai-processing-ms", str(entry.elapsed_ns // 1_000_000)),
        ("x-millrace-model-version", entry.target.version),
    ]
