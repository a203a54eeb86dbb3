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
)
from contract.ids import new_invocation_id
from contract.money import NANO, format_usd
from contract.records import Invocation, Status
from gateway.client import ClientGone, ClientWatch, Reply, header, read_body
from gateway.complaints import LostModel, complaint
from gateway.entry import Entry
from gateway.fields import MAX_MODEL_NAME, ChatRequest, parse_body, parse_chat
from gateway.metrics import FIRST_TOKEN
from gateway.routes import Replica, Target
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
        entry = Entry(new_invocation_id(key.project, worker.secret), key, ENDPOINT, worker.settings.log.policy)
        scope["state"]["request_id"] = entry.invocation
        exchange = Exchange(worker, entry, Reply(send, worker.settings.gateway.send_timeout))
        try:
            await exchange.serve(scope, receive)
        finally:
            scope["state"]["model"] = entry.model_label


class Exchange:
    """One request, its answer and its record."""

    def __init__(self, worker: Worker, entry: Entry, reply: Reply) -> None:
        self._worker = worker
        self._entry = entry
        self._reply = reply

    async def serve(self, scope: Scope, receive: Receive) -> None:
        """Answers, and sees to it that every way to end leaves its record.

        Raises:
            MillraceError: as `Relay`.
        """
        try:
            await self._walk(scope, receive)
        except ClientGone:
            self._record_end(Status.ABORTED, self._reply.status)
        except OperatorError:
            await self._defect()
        except MillraceError as error:
            await self._fail(error)
        except asyncio.CancelledError:
            # Only the end of the drain timeout cancels a request; its task ends here, with an answer.
            leaving = Overloaded("the server is shutting down", code="shutting_down", retry_after=1.0)
            self._record_end(Status.INTERRUPTED, self._reply.status or leaving.status, leaving.code)
            await self._tell(leaving)
        except Exception:
            await self._defect()

    # --- the way there

    async def _walk(self, scope: Scope, receive: Receive) -> None:
        worker, entry = self._worker, self._entry
        reservation = worker.limits.reserve()
        try:
            body = parse_body(await read_body(scope, receive, worker.settings.gateway))
            entry.asked = str(body.get("model", ""))[:MAX_MODEL_NAME]
            entry.request = parse_chat(body, worker.settings.gateway)
            entry.target = worker.routes.snapshot.resolve(entry.request.model)
            async with ClientWatch(receive):
                await self._answer(entry.request, entry.target)
        finally:
            reservation.settle()

    async def _answer(self, request: ChatRequest, target: Target) -> None:
        """Up to two attempts, the second only while no byte has gone out."""
        routes = self._worker.routes
        tried: list[str] = []
        for last in (False, True):
            replica = await routes.pick(target, tried)
            try:
                await self._attempt(request, target, replica)
                return
            except LostModel:
                # The replica restarted, or the alias moved on and the old version is gone: what is true now?
                if last or self._reply.started:
                    raise
                replica.served -= {target.version}
                await self._worker.refresh_names()
                target = self._entry.target = routes.snapshot.resolve(request.model)
            except (EngineUnavailable, EngineFailed) as error:
                replica.saw(error)
                tried.append(replica.name)
                if last or self._reply.started or len(tried) == len(routes.replicas[target.engine]):
                    raise

    async def _attempt(self, request: ChatRequest, target: Target, replica: Replica) -> None:
        worker, entry, tokens = self._worker, self._entry, self._worker.settings.log.policy.tokens
        cap, context = worker.settings.gateway.max_completion_tokens, replica.client.context
        body = request.upstream(
            target.version,
            worker.cache_salt(entry.key.project),
            tokens=tokens,
            # An engine refuses a bound over its context, which bounds the answer as well.
            at_most=None if context is not None and context <= cap else cap,
        )
        shape = Shape(
            model=target.asked,
            response_id=f"chatcmpl-{entry.invocation}",
            include_usage=request.include_usage,
            hide_tokens=tokens,
            hide_logprobs=tokens and not request.wants_logprobs,
        )
        entry.goes_upstream(replica)
        async with worker.upstream.post(f"{replica.url}{ENDPOINT}", body, entry.invocation, entry.watch) as answer:
            if answer.status != 200:
                raise complaint(answer.status, await answer.body(), target)
            if request.stream:
                await self._stream(answer, shape)
            else:
                await self._plain(answer, shape)

    # --- the way back

    async def _plain(self, answer: Answer, shape: Shape) -> None:
        document = self._read(await answer.body())
        if "choices" not in document:
            raise EngineFailed("the engine's answer has no choices")
        body = shape.whole(document)
        self._entry.first_byte()
        record = self._complete()
        headers = [("content-type", "application/json"), ("content-length", str(len(body))), *self._headers()]
        if record.cost is not None:
            headers.append(("x-millrace-cost", format_usd(record.cost, 9).removeprefix("$")))
        await self._reply.start(200, headers)
        await self._reply.end(body)

    async def _stream(self, answer: Answer, shape: Shape) -> None:
        async for events in _events(answer):
            out: list[bytes] = []
            for event in events:
                data = data_of(event)
                if data == DONE:
                    await self._finish(answer, shape, b"".join(out))
                    return
                out.append(event if data is None else await self._relayed(data, shape, out))
            if self._entry.meter.started and not self._reply.started:
                await self._begin()
            if self._reply.started:
                await self._reply.send(b"".join(out))
        raise EngineFailed("the engine ended its stream without saying that it was done")

    async def _relayed(self, data: bytes, shape: Shape, before: list[bytes]) -> bytes:
        """The client's share of one event; nothing where it has none."""
        document = self._read(data)
        if "error" in document:
            if self._reply.started:
                await self._reply.send(b"".join(before))
            raise complaint(None, data, self._entry.target)
        cut = shape.chunk(document)
        return b"" if cut is None else event_of(cut)

    async def _begin(self) -> None:
        self._entry.open(self._worker.spool)
        waited = self._entry.first_byte()
        self._worker.metrics.observe(FIRST_TOKEN, (self._entry.model_label,), waited / NANO)
        headers = [("content-type", "text/event-stream; charset=utf-8"), ("cache-control", "no-cache")]
        await self._reply.start(200, [*headers, *self._headers()])

    async def _finish(self, answer: Answer, shape: Shape, rest: bytes) -> None:
        if not self._entry.meter.started:
            raise EngineFailed("the engine's stream is empty")
        if not self._reply.started:
            await self._begin()
        usage = shape.missing_usage(self._entry.usage)
        await answer.settle()
        self._complete()
        await self._reply.end(rest + (event_of(usage) if usage is not None else b"") + event_of(DONE))

    def _read(self, document: bytes) -> Members:
        """Parses and meters; what is no answer of an engine is its failure."""
        try:
            parts = members(document)
            self._entry.meter.read(parts)
        except msgspec.DecodeError as error:
            raise EngineFailed(f"the engine sent something that is no answer: {error}") from error
        return parts

    def _headers(self) -> list[tuple[str, str]]:
        assert self._entry.target is not None
        return [
            ("openai-processing-ms", str(self._entry.elapsed_ns // 1_000_000)),
            ("x-millrace-model-version", self._entry.target.version),
        ]

    # --- the ends

    def _complete(self) -> Invocation:
        """The record of a whole answer; nothing of its last byte has gone out yet."""
        record = self._entry.close(self._worker.prices, Status.COMPLETE, 200)
        self._worker.spool.append(record)
        self._entry.closed = True
        self._worker.metrics.ended(record, self._entry.model_label)
        return record

    async def _defect(self) -> None:
        _log.exception("request %s", self._entry.invocation)
        await self._fail(InternalError("an error of this server; its log has the details"))

    async def _fail(self, error: MillraceError) -> None:
        """Records a request that ended badly, and tells the client in the way that is still open."""
        turned_away = error.status < 500 or (self._entry.attempts == 0 and isinstance(error, Overloaded))
        refused = turned_away and not self._reply.started
        status = Status.REFUSED if refused else Status.FAILED
        self._record_end(status, self._reply.status or error.status, error.code)
        await self._tell(error)

    async def _tell(self, error: MillraceError) -> None:
        if not self._reply.started:
            raise error
        await self._reply.break_off(error)

    def _record_end(self, status: Status, http_status: int | None, code: str | None = None) -> None:
        """Records an end that is no answer; a spool without room for it does not stop the client from hearing of it."""
        worker, entry = self._worker, self._entry
        if entry.closed:
            return
        record = entry.close(worker.prices, status, http_status, code)
        entry.closed = True
        if not worker.write_end(record, entry.model_label):
            _log.error("the end of request %s (%s) waits for a spool that takes it", entry.invocation, status)


async def _events(answer: Answer) -> AsyncIterator[list[bytes]]:
    """The events of the stream, those that came together in one list."""
    splitter = Splitter()
    while piece := await answer.piece():
        events = splitter.feed(piece)
        if events:
            yield events
