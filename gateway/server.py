# SPDX-License-Identifier: Apache-2.0
"""The gateway as a process: `serve` binds the port and runs one worker, or several that share the socket.

SIGTERM drains: no new connection is taken, ``/ready`` says why on those that stand, open answers finish within
``gateway.drain_timeout``, and what is left then is told so, recorded and cut. A worker that dies is replaced; one
that cannot start at all ends the gateway; workers whose parent dies drain by themselves.
"""

import asyncio
import gc
import logging
import math
import multiprocessing
import multiprocessing.connection
import signal
import socket
import sys
import time
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess
from multiprocessing.queues import SimpleQueue
from types import FrameType

import uvicorn

from contract import logs
from contract.database import open_database
from contract.errors import OperatorError
from contract.seed import seed
from contract.settings import Settings
from gateway.acceptor import Acceptor, at_once
from gateway.adapters import check_declared
from gateway.app import create_app, door
from gateway.worker import Worker

BACKLOG = 2048
_KILL_AFTER = 10.0
"""Seconds past the drain timeout after which a worker that does not end is killed."""
_CANNOT_START = 2
"""Exit code of a worker that found something for a person to mend."""
_RESTART_SECONDS, _LONGEST_RESTART_SECONDS = 0.5, 30.0
"""Before a worker that died is replaced; doubled while its replacements cannot start."""
_log = logging.getLogger(__name__)


def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
        OperatorError: the port is taken, or the database, the spool, a declared adapter or a provider cannot be used.
    """
    logs.to_stderr()
    check_declared(settings)
    listener = bind(settings)
    try:
        # Once here, before any worker, so that what is wrong is one clear error.
        settings.installation.secret()  # before the database; see `Installation.secret`
        database = open_database(settings.database_url)
        with database.begin() as connection:
            seed(connection, settings)
        database.dispose()
        host, port = listener.getsockname()[:2]
        _log.info("the gateway listens on http://%s:%s with %d worker(s)", host, port, settings.gateway.workers)
        if settings.gateway.workers == 1:
            run_worker(settings, listener)
        else:
            _Supervisor(settings, listener).run()
    finally:
        listener.close()


def bind(settings: Settings) -> socket.socket:
    """The listening socket.

    Raises:
        OperatorError: the address is taken or not ours.
    """
    host, port = settings.gateway.host, settings.gateway.port
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise OperatorError(
            f"cannot listen on {host}:{port} (gateway.host, gateway.port): {error.strerror or error}; "
            "stop what uses it or choose another port"
        ) from error
    # Its connections inherit it. uvloop sets it on each by itself; asyncio only where a socket names its protocol.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def run_worker(settings: Settings, listener: socket.socket) -> None:
    """One worker on a socket that is bound; returns when it has drained.

    Raises:
        OperatorError: it cannot start.
    """
    logs.to_stderr()
    worker = Worker(settings)
    app = create_app(worker)
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=door(worker),
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        # By then the worker has cut what was still open.
        timeout_graceful_shutdown=math.ceil(settings.gateway.drain_timeout) + 2,
    )
    server = _Server(config, worker)
    server.run([listener])
    if not server.started:
        raise OperatorError("the gateway could not start; its log says why")


def _run_child(settings: Settings, listener: socket.socket, reasons: "SimpleQueue[str]") -> None:
    try:
        run_worker(settings, listener)
    except OperatorError as error:
        reasons.put(error.message)
        sys.exit(_CANNOT_START)


class _Server(uvicorn.Server):
    """Tells the worker that it is going away as soon as the signal comes, and ends when its parent has died."""

    def __init__(self, config: uvicorn.Config, worker: Worker) -> None:
        super().__init__(config)
        self._worker = worker
        self._acceptors: list[Acceptor] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup([])  # what listens is the acceptor
        share = at_once(self._worker.settings.gateway.workers, self._worker.max_connections)
        self._acceptors = [Acceptor(listener, self._protocol, share) for listener in sockets or ()]
        # What is here now stays: the collector need not look at it again while requests wait.
        gc.collect()
        gc.freeze()
        parent = multiprocessing.parent_process()
        if parent is not None:
            asyncio.get_running_loop().add_reader(parent.sentinel, self._orphaned, parent.sentinel)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for acceptor in self._acceptors:
            acceptor.close()
        await super().shutdown(sockets)

    def _protocol(self) -> asyncio.Protocol:
        made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]  # typed as any protocol's
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made

    def _orphaned(self, sentinel: int) -> None:
        asyncio.get_running_loop().remove_reader(sentinel)
        self._drain()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)  # first: to uvicorn a SIGINT while it is leaving means to drop everything
        self._drain()

    def _drain(self) -> None:
        self.should_exit = True
        self._worker.drain()


@dataclass
class _Place:
    """A worker, or the wait for the next one to take its place."""

    process: SpawnProcess
    wait: float = 0.0
    """Zero for the first one."""
    due: float | None = None


class _Supervisor:
    """Several workers on one socket."""

    def __init__(self, settings: Settings, listener: socket.socket) -> None:
        self._settings = settings
        self._listener = listener
        self._spawn = multiprocessing.get_context("spawn")
        self._reasons: SimpleQueue[str] = self._spawn.SimpleQueue()
        self._places: list[_Place] = []
        self._stopping = False

    def run(self) -> None:
        """Keeps the workers alive until a signal, then drains them.

        Raises:
            OperatorError: one of the first workers cannot start.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        try:
            self._places = [_Place(self._start()) for _ in range(self._settings.gateway.workers)]
            while not self._stopping:
                living = [place.process.sentinel for place in self._places if place.due is None]
                multiprocessing.connection.wait(living, timeout=_RESTART_SECONDS)
                for place in self._places:
                    self._tend(place)
        finally:
            self._drain()

    def _tend(self, place: _Place) -> None:
        """Notes that a worker has died, or replaces it once its wait is over."""
        if place.process.is_alive() or self._stopping:
            return
        if place.due is None:
            code = place.process.exitcode
            reason = self._reasons.get() if code == _CANNOT_START else f"it ended with {code}"
            if code == _CANNOT_START and not place.wait:
                raise OperatorError(reason)
            again = 2 * place.wait if code == _CANNOT_START else _RESTART_SECONDS
            place.wait = min(again, _LONGEST_RESTART_SECONDS)
            place.due = time.monotonic() + place.wait
            _log.error("a worker is replaced in %g s: %s", place.wait, reason)
        elif time.monotonic() >= place.due:
            place.process, place.due = self._start(), None

    def _drain(self) -> None:
        self._listener.close()  # or the kernel would still take connections that nobody answers
        workers = [place.process for place in self._places]
        for worker in workers:
            worker.terminate()
        deadline = time.monotonic() + self._settings.gateway.drain_timeout + _KILL_AFTER
        for worker in workers:
            worker.join(max(0.0, deadline - time.monotonic()))
            if worker.is_alive():
                _log.error("worker %s did not end in time and is killed", worker.pid)
                worker.kill()

    def _start(self) -> SpawnProcess:
        worker = self._spawn.Process(
            target=_run_child, args=(self._settings, self._listener, self._reasons), name="gateway"
        )
        worker.start()
        return worker

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True
