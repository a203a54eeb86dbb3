# SPDX-License-Identifier: Apache-2.0
"""The path of a request to a model, top to bottom.

key -> place in flight -> body -> version -> replica -> engine -> meter -> spool -> last byte. However it ends, exactly
one record of it is in the spool, and a client that got a whole answer got it after that record was written.
"""

import logging
import time

import msgspec

from contract.errors import (
    EngineFailed,
    EngineTimeout,
    EngineUnavailable,
    InternalError,
    MillraceError,
    OperatorError,
    Overloaded,
)
from contract.ids import new_id, new_invocation_id
from contract.money import NANO
from contract.records import Invocation, Status
from gateway.asked import CHAT, COMPLETIONS, Asked, Endpoint
from gateway.client import ClientGone
from gateway.complaints import LostModel, complaint
from gateway.completions import parse_completion
from gateway.entry import Entry
from gateway.fields import parse_body, parse_chat
from gateway.metrics import FIRST_TOKEN
from gateway.quick import usual_chat
from gateway.replicas import Replica
from gateway.routes import Target
from gateway.shape import Shape
from gateway.sse import DONE, Splitter, data_of, event_of
from gateway.turn import Turn
from gateway.upstream import CONNECT_TIMEOUT, Answer
from gateway.usage import Document
from gateway.values import MAX_MODEL_NAME
from gateway.worker import Leaving, Worker

_PARSERS = {CHAT: parse_chat, COMPLETIONS: parse_completion}
PREFIX_BYTES = 1024
"""Of the messages: as much as makes a replica's prefix cache worth asking."""
_log = logging.getLogger(__name__)


async def relay(endpoint: Endpoint, worker: Worker, turn: Turn) -> None:
    """Answers one request, in whatever way it ends."""
    try:
        key = worker.keys.authenticate(turn.header(b"authorization"), time.time_ns())
        worker.accept()
    except MillraceError as error:
        turn.request_id = new_id("req")
        turn.fail(error)
        return
    entry = Entry(new_invocation_id(key.project, worker.secret), key, endpoint.path, worker.settings.log.policy)
    turn.request_id = entry.invocation
    await Exchange(endpoint, worker, entry, turn).serve()


class Exchange:
    """One request, its answer and its record."""

    def __init__(self, endpoint: Endpoint, worker: Worker, entry: Entry, turn: Turn) -> None:
        self._endpoint = endpoint
        self._worker = worker
        self._entry = entry
        self._turn = turn

    async def serve(self) -> None:
        """Answers, and sees to it that every way to end leaves its record.

        Raises:
            ClientGone: the client takes nothing any more.
        """
        try:
            await self._walk()
        except ClientGone:
            self._record_end(Status.ABORTED, self._turn.status)
            raise
        except OperatorError:
            self._defect()
        except Leaving as error:
            self._record_end(Status.INTERRUPTED, self._turn.status or error.status, error.code)
            self._tell(error)
        except MillraceError as error:
            self._fail(error)
        except Exception:
            self._defect()

    # --- the way there

    async def _walk(self) -> None:
        worker, entry, turn = self._worker, self._entry, self._turn
        reservation = worker.limits.reserve()
        try:
            entry.request = request = self._understood(turn.taken() or await turn.body())
            entry.target = target = worker.routes.snapshot.resolve(request.model)
            turn.model = target.alias
            gate = worker.limits.gates.get(target.alias)
            if gate is None:
                await self._answer(request, target)
            else:
                assert turn.strand is not None
                await gate.enter(turn.strand)
                try:
                    await self._answer(request, target)
                finally:
                    gate.leave()
            if turn.blocked:
                await turn.drained()
        finally:
            reservation.settle()

    def _understood(self, body: bytes) -> Asked:
        settings = self._worker.settings.gateway
        if self._endpoint is CHAT:
            request = usual_chat(body, settings)
            if request is not None:
                self._entry.asked = request.model
                return request
        document = parse_body(body)
        self._entry.asked = str(document.get("model", ""))[:MAX_MODEL_NAME]
        return _PARSERS[self._endpoint](document, settings)

    async def _answer(self, request: Asked, target: Target) -> None:
        """By the model that was asked for, or, before a byte has gone out, by one of its fallbacks."""
        routes = self._worker.routes
        routes.retries.earn()
        fallbacks = list(routes.fallbacks(target))
        while True:
            try:
                await self._by_a_replica(request, target)
                return
            except (EngineUnavailable, EngineFailed, EngineTimeout):
                if self._turn.started or not fallbacks or not routes.retries.spend():
                    raise
            target = self._entry.target = fallbacks.pop(0)

    async def _by_a_replica(self, request: Asked, target: Target) -> None:
        """By one replica, or, before a byte has gone out, by another."""
        routes, lost = self._worker.routes, False
        tried: list[Replica] = []
        while True:
            replica = routes.known(target, tried, self._prefix) or await routes.found(target, tried, self._prefix)
            try:
                await self._attempt(request, target, replica)
                replica.answered()
                return
            except LostModel:
                # The replica restarted, or the alias moved on and the old version is gone: what is true now?
                if lost or self._turn.started:
                    raise
                lost = True
                replica.served -= {target.version}
                await self._worker.refresh_names()
                target = self._entry.target = routes.again(target)
            except (EngineUnavailable, EngineFailed, EngineTimeout) as error:
                routes.failed(replica, error)
                tried.append(replica)
                too_late = isinstance(error, EngineTimeout) and error.code != CONNECT_TIMEOUT
                if self._turn.started or too_late or not routes.others(target, tried) or not routes.retries.spend():
                    raise
            except MillraceError:
                replica.answered()
                raise

    def _prefix(self) -> bytes:
        """What requests with the same beginning have in common; of another project nothing is cached for this one."""
        entry = self._entry
        assert entry.request is not None
        return entry.key.project.encode() + entry.request.prompt[:PREFIX_BYTES]

    async def _attempt(self, request: Asked, target: Target, replica: Replica) -> None:
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
            response_id=self._endpoint.id_prefix + entry.invocation,
            include_usage=request.include_usage,
            hide_tokens=tokens,
            hide_logprobs=tokens and not request.wants_logprobs,
        )
        entry.goes_upstream(replica)
        assert self._turn.strand is not None
        answer = await worker.upstream.post(
            replica.origin, replica.request(self._endpoint.path, entry.invocation, body), self._turn.strand, entry.watch
        )
        replica.outstanding += 1
        try:
            if answer.status != 200:
                raise complaint(answer.status, await answer.body(), target)
            if request.stream:
                await self._stream(answer, shape)
            else:
                self._plain(await answer.body(), shape)
        except MillraceError:
            # An engine's complaint has been read to its end, and its connection can serve again.
            answer.done_or_abort()
            raise
        except BaseException:
            answer.abort()
            raise
        finally:
            replica.outstanding -= 1
        answer.done()

    # --- the way back

    def _plain(self, data: bytes, shape: Shape) -> None:
        read = self._read(data)
        if read.choices is msgspec.UNSET:
            raise EngineFailed("the engine's answer has no choices")
        body = shape.whole(data, read)
        self._entry.first_byte()
        record = self._complete()
        cost = b"" if record.cost is None else b"x-millrace-cost: %d.%09d\r\n" % divmod(record.cost, NANO)
        self._turn.whole(200, b"content-type: application/json\r\n%b%b" % (self._headers(), cost), body)

    async def _stream(self, answer: Answer, shape: Shape) -> None:
        splitter, turn = Splitter(), self._turn
        while pieces := await answer.pieces():
            out: list[bytes] = []
            for piece in pieces:
                for event in splitter.feed(piece):
                    data = data_of(event)
                    if data == DONE:
                        self._finish(shape, out)
                        return
                    out.append(event if data is None else self._relayed(data, shape, out))
            self._pass_on(out)
            if turn.blocked:
                answer.hold()
                await turn.drained()
                answer.go_on()
        raise EngineFailed("the engine ended its stream without saying that it was done")

    def _relayed(self, data: bytes, shape: Shape, before: list[bytes]) -> bytes:
        """The client's share of one event; nothing where it has none."""
        read = self._read(data)
        if bytes(read.error):
            self._pass_on(before)
            raise complaint(None, data, self._entry.target)
        cut = shape.chunk(data, read)
        if cut is None:
            return b""
        if read.usage is not msgspec.UNSET and not read.choices:
            cut = self._priced(cut)
        return event_of(cut)

    def _priced(self, usage_chunk: bytes) -> bytes:
        """The chunk that ends a stream with its usage, with what that costs."""
        cost = divmod(self._entry.cost_so_far(self._worker.prices), NANO)
        return b'%b,"x_millrace_cost":"%d.%09d"}' % (usage_chunk.rstrip()[:-1], *cost)

    def _pass_on(self, out: list[bytes]) -> None:
        """Sends what there is; a stream begins with the first of its answer."""
        piece = b"".join(out)
        if self._turn.started:
            if piece:
                self._turn.send(piece)
        elif self._entry.meter.started:
            self._begin(piece)

    def _begin(self, first: bytes) -> None:
        self._entry.open(self._worker.spool)
        waited = self._entry.first_byte()
        self._worker.metrics.observe(FIRST_TOKEN, (self._entry.model_label,), waited / NANO)
        headers = b"content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
        self._turn.start(headers + self._headers(), first)

    def _finish(self, shape: Shape, out: list[bytes]) -> None:
        if not self._entry.meter.started:
            raise EngineFailed("the engine's stream is empty")
        if not self._turn.started:
            self._begin(b"")
        usage = shape.missing_usage(self._entry.usage)
        if usage is not None:
            out.append(event_of(self._priced(usage)))
        out.append(event_of(DONE))
        self._complete()
        self._turn.finish(b"".join(out))

    def _read(self, data: bytes) -> Document:
        """Parses and meters; what is no answer of an engine is its failure."""
        try:
            return self._entry.meter.read(data)
        except msgspec.DecodeError as error:
            raise EngineFailed(f"the engine sent something that is no answer: {error}") from error

    def _headers(self) -> bytes:
        assert self._entry.target is not None
        return b"openai-processing-ms: %d\r\nx-millrace-model-version: %b\r\n" % (
            self._entry.elapsed_ns // 1_000_000,
            self._entry.target.version.encode("latin-1"),
        )

    # --- the ends

    def _complete(self) -> Invocation:
        """The record of a whole answer; nothing of its last byte has gone out yet."""
        record = self._entry.close(self._worker.prices, Status.COMPLETE, 200)
        self._worker.spool.append(record)
        self._entry.closed = True
        self._worker.metrics.ended(record, self._entry.model_label)
        return record

    def _defect(self) -> None:
        _log.exception("request %s", self._entry.invocation)
        self._fail(InternalError("an error of this server; its log has the details"))

    def _fail(self, error: MillraceError) -> None:
        """Records a request that ended badly, and tells the client in the way that is still open."""
        turned_away = error.status < 500 or (self._entry.attempts == 0 and isinstance(error, Overloaded))
        refused = turned_away and not self._turn.started
        status = Status.REFUSED if refused else Status.FAILED
        self._record_end(status, self._turn.status or error.status, error.code)
        self._tell(error)

    def _tell(self, error: MillraceError) -> None:
        self._turn.model = self._entry.model_label
        if not self._turn.answered:
            self._turn.fail(error)

    def _record_end(self, status: Status, http_status: int | None, code: str | None = None) -> None:
        """Records an end that is no answer; a spool without room for it does not stop the client from hearing of it."""
        worker, entry = self._worker, self._entry
        if entry.closed:
            return
        record = entry.close(worker.prices, status, http_status, code)
        entry.closed = True
        if not worker.write_end(record, entry.model_label):
            _log.error("the end of request %s (%s) waits for a spool that takes it", entry.invocation, status)
