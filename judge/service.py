# SPDX-License-Identifier: Apache-2.0
"""`millrace serve judge`: scores live traffic and says how it is on /health, /ready and /metrics."""

import asyncio
import logging
import signal
import socket
from contextlib import closing

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from contract import logs
from contract.database import open_database
from contract.errors import AuthenticationFailed, OperatorError
from contract.settings import JudgeSettings, Settings
from judge.lease import Lease
from judge.metrics import JudgeMetrics
from judge.plan import Assignment, assignments
from judge.positions import ROLE
from judge.worker import Worker
from logger.client import LoggerClient
from logger.spool import Spool, claim_producer

log = logging.getLogger(__name__)


def serve(settings: Settings) -> None:
    """Judges live traffic until SIGTERM or SIGINT.

    Raises:
        OperatorError: the settings ask for what cannot be done, the port is taken, spool or database cannot be used, or
            the logger is another installation's.
    """
    logs.to_stderr()
    plan = assignments(settings)
    producer = claim_producer(settings.installation.spool, ROLE)
    try:
        with closing(Spool(producer, settings.log.spool)) as spool:
            asyncio.run(_serve(settings, plan, spool, f"{socket.gethostname()}/{producer.name}"))
    finally:
        producer.release()


async def _serve(settings: Settings, plan: list[Assignment], spool: Spool, holder: str) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    database = open_database(settings.database_url)
    lease, metrics = Lease(database, holder), JudgeMetrics()
    try:
        async with LoggerClient(settings.log.url, settings.installation.token("logger")) as client:
            worker = Worker(plan, lease, client, spool, settings.installation.spool, metrics)
            runner = await _listen(application(worker, metrics), settings.judge)
            try:
                await worker.run(stop)
            except AuthenticationFailed as error:
                raise OperatorError(
                    f"the logger at {settings.log.url} (log.url) does not know this installation: {error.message}; "
                    f"give both the secret in {settings.installation.data_dir / 'secret'}, or one MILLRACE_SECRET"
                ) from error
            finally:
                await runner.cleanup()
        lease.release()
    finally:
        database.dispose()


def application(worker: Worker, metrics: JudgeMetrics) -> web.Application:
    """The judge's own HTTP server."""

    async def health(_request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def ready(_request: web.Request) -> web.Response:
        return web.json_response({"status": worker.state}, status=200 if worker.ready else 503)

    async def show_metrics(_request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/health", health), web.get("/ready", ready), web.get("/metrics", show_metrics)])
    return app


async def _listen(app: web.Application, settings: JudgeSettings) -> web.AppRunner:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, settings.host, settings.port).start()
    except OSError as error:
        await runner.cleanup()
        raise OperatorError(
            f"cannot listen on {settings.host}:{settings.port} (judge.host, judge.port): {error.strerror}"
        ) from error
    log.info("the judge listens on %s", ", ".join(f"{host}:{port}" for host, port, *_ in runner.addresses))
    return runner
