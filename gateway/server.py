# SPDX-License-Identifier: Apache-2.0
"""The gateway as a process: `serve` binds the port and runs one worker, or several that share the socket.

SIGTERM drains: no new connection is taken, ``/ready`` says why on those that stand, open answers finish within
``gateway.drain_timeout``, and what is left then is told so, recorded and cut. A worker that dies is replaced; workers
whose parent dies drain by themselves.
"""

import asyncio
import logging
import multiprocessing
import multiprocessing.connection
import signal
import socket
import time
from multiprocessing.context import SpawnProcess
from types import FrameType

import uvicorn
from fastapi import FastAPI

from contract import logs
from contract.database import open_database
from contract.errors import OperatorError
from contract.seed import seed
from contract.settings import Settings
from gateway.adapters import check_declared
from gateway.app import create_app
from gateway.worker import Worker

BACKLOG = 2048
KEEP_ALIVE = 75
"""Seconds an idle connection stays: longer than clients keep theirs, so that none is closed under a new request."""
_KILL_AFTER = 10.0
"""Seconds past the drain timeout after which a worker that does not end is killed."""
_RESTART_SECONDS = 0.5
_log = logging.getLogger(__name__)


def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
        OperatorError: the port is taken, or the database, the spool or a declared adapter cannot be used.
    """
    logs.to_stderr()
    check_declared(settings)
    listener = bind(settings)
    try:
        # Once here, before any worker, so that what is wrong is one clear error.
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
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise OperatorError(
            f"cannot listen on {host}:{port} (gateway.host, gateway.port): {error.strerror or error}; "
            "stop what uses it or choose another port"
        ) from error


def run_worker(settings: Settings, listener: socket.socket) -> None:
    """One worker on a socket that is bound; returns when it has drained."""
    logs.to_stderr()
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=max(1, round(settings.gateway.drain_timeout)),
    )
    _Server(config, app).run([listener])


class _Server(uvicorn.Server):
    """Tells the worker that it is going away as soon as the signal comes, and ends when its parent has died."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        parent = multiprocessing.parent_process()
        if parent is not None:
            asyncio.get_running_loop().add_reader(parent.sentinel, self._orphaned, parent.sentinel)

    def _orphaned(self, sentinel: int) -> None:
        asyncio.get_running_loop().remove_reader(sentinel)
        self._drain()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)  # first: to uvicorn a SIGINT while it is leaving means to drop everything
        self._drain()

    def _drain(self) -> None:
        self.should_exit = True
        worker: Worker | None = getattr(self._app.state, "worker", None)
        if worker is not None:
            worker.draining = True


class _Supervisor:
    """Several workers on one socket."""

    def __init__(self, settings: Settings, listener: socket.socket) -> None:
        self._settings = settings
        self._listener = listener
        self._workers: list[SpawnProcess] = []
        self._stopping = False

    def run(self) -> None:
        """Keeps the workers alive until a signal, then drains them."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        self._workers = [self._start() for _ in range(self._settings.gateway.workers)]
        while not self._stopping:
            multiprocessing.connection.wait([worker.sentinel for worker in self._workers], timeout=_RESTART_SECONDS)
            for index, worker in enumerate(self._workers):
                if not worker.is_alive() and not self._stopping:
                    _log.error("a worker ended with %s; another takes its place", worker.exitcode)
                    time.sleep(_RESTART_SECONDS)
                    self._workers[index] = self._start()
        self._listener.close()  # or the kernel would still take connections that nobody answers
        for worker in self._workers:
            worker.terminate()
        deadline = time.monotonic() + self._settings.gateway.drain_timeout + _KILL_AFTER
        for worker in self._workers:
            worker.join(max(0.0, deadline - time.monotonic()))
            if worker.is_alive():
                _log.error("worker %s did not end in time and is killed", worker.pid)
                worker.kill()

    def _start(self) -> SpawnProcess:
        worker = multiprocessing.get_context("spawn").Process(
            target=run_worker, args=(self._settings, self._listener), name="gateway"
        )
        worker.start()
        return worker

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True
