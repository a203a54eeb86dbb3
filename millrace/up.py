# SPDX-License-Identifier: Apache-2.0
"""`millrace up`: every process of one machine, started in order, kept alive, stopped in order.

Start: engines, logger, gateway, judge, trainer. Stop: trainer and judge first (they only read), then the gateway (open
answers finish), then the logger (it takes in what the others have written), the engines last.
"""

import asyncio
import fcntl
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from contract.database import open_database
from contract.errors import OperatorError, SettingsError
from contract.seed import seed
from contract.settings import Engine, EngineLaunch, Settings, local_url
from judge.graders import build_graders
from millrace import engine as vllm
from millrace.fetch import cache_dir
from millrace.model import EMBEDDED, ensure_model, is_complete
from millrace.supervisor import Child, Supervised, in_order

Report = Callable[[str], None]
_STOP_ORDER = ("trainer", "judge", "gateway", "logger")


class Stack:
    """All processes of one machine, from one settings file."""

    def __init__(self, settings: Settings, config: Path, overrides: list[str], report: Report) -> None:
        """``overrides`` are ``name=value`` flags that every process gets beside ``config``."""
        self.settings = settings
        self._config = config
        self._overrides = overrides
        self._report = report

    def run(self, body: Callable[[], Awaitable[None]]) -> None:
        """Starts everything, runs ``body`` until it returns or SIGINT or SIGTERM comes, stops everything.

        Raises:
            OperatorError: a process cannot be started or kept; what was started is stopped.
        """
        build_graders(self.settings)
        with _only_one(self.settings):
            children = self.children()
            self.settings.installation.secret()  # before the database; see `Installation.secret`
            database = open_database(self.settings.database_url)
            with database.begin() as connection:
                done = seed(connection, self.settings)
            database.dispose()
            self._report(f"starting on {self.settings.data_dir}; logs are in {self.settings.installation.logs}")
            for line in done:
                self._report(line)
            asyncio.run(self._run(children, body))

    async def _run(self, to_start: list[Child], body: Callable[[], Awaitable[None]]) -> None:
        children = [Supervised(child, self._report) for child in to_start]
        by_name = {supervised.child.name: supervised for supervised in children}
        stop_order = [by_name[name] for name in _STOP_ORDER if name in by_name]
        stop_order += [child for child in children if child not in stop_order]
        main = asyncio.current_task()
        assert main is not None

        def interrupt() -> None:
            if not main.cancelling():
                main.cancel()
                return
            self._report("stopping now; what does not end at once is killed")
            for child in children:
                child.hurry()

        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, interrupt)
        try:
            await in_order(children, body, stop_order)
        except asyncio.CancelledError:
            self._report("stopped")

    def children(self) -> list[Child]:
        """What to start, in order."""
        settings = self.settings
        engines = enumerate(settings.engines)
        found = [self._engine(index, each, each.launch) for index, each in engines if each.launch is not None]
        found.append(self._service("logger", settings.log.host, settings.log.port))
        found.append(self._service("gateway", settings.gateway.host, settings.gateway.port))
        if settings.judge.live:
            found.append(self._service("judge", settings.judge.host, settings.judge.port))
        if settings.loops:
            found.append(self._service("trainer", settings.trainer.host, settings.trainer.port))
        return found

    def _engine(self, index: int, engine: Engine, launch: EngineLaunch) -> Child:
        if launch.model == EMBEDDED and not is_complete(cache_dir() / "models" / EMBEDDED):
            self._report(f"fetching and converting {EMBEDDED} (once, about 93 MB and half a minute)")
        model = ensure_model(launch.model, cache_dir())
        return Child(
            name=f"engine-{engine.name}",
            command=vllm.command(engine, launch, model),
            environment=vllm.environment(launch, model, cache_dir()),
            log=self.settings.installation.logs / f"engine-{engine.name}.log",
            ready_url=f"{engine.base_url}/health",
            ready_timeout=launch.start_timeout,
            port_setting=f"engines[{index}].launch.port",
            explain=lambda tail, code: vllm.explain(tail, code, launch),
        )

    def _service(self, name: str, host: str, port: int) -> Child:
        section = "log" if name == "logger" else name
        if port == 0:
            at = self.settings.place(section, "port")
            raise SettingsError(f"{at}: 0: `millrace up` and the others must know the port; give one")
        command = [sys.executable, "-m", "millrace", "serve", name, "--config", str(self._config)]
        command += [part for override in self._overrides for part in ("--set", override)]
        drain = self.settings.gateway.drain_timeout if name == "gateway" else 0.0
        return Child(
            name=name,
            command=command,
            environment={**os.environ, "PYTHONUNBUFFERED": "1"},
            log=self.settings.installation.logs / f"{name}.log",
            ready_url=f"{local_url(host, port)}/health",
            ready_timeout=90.0,
            port_setting=f"{section}.port",
            stop_timeout=60.0 + drain,
            essential=name == "gateway",
            drains=name == "gateway",
        )


@contextmanager
def _only_one(settings: Settings) -> Iterator[None]:
    folder = settings.installation.run
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "up.lock").open("a+")
    except OSError as error:
        raise OperatorError(f"data_dir {settings.data_dir} cannot be written: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise OperatorError(
                f"millrace is already up on {settings.data_dir} (process {lock.read().strip() or 'unknown'})"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
