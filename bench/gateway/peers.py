# SPDX-License-Identifier: Apache-2.0
"""The gateways under test as processes on one core, each in front of the same upstream.

Peers are installed apart, under the cache, with exact versions, so that nothing of theirs is in our environment.
"""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import yaml

from bench.gateway.upstream import MODEL
from millrace.fetch import cache_dir

ROOT = Path(__file__).resolve().parents[2]
GATEWAY_CORE, OTHER_CORE = 0, 1
"""The gateway under test has a core of its own; the client and the upstream share the other."""
PEERS = {"vllm-router": "vllm-router==0.1.17", "litellm": "litellm[proxy]==1.106.2"}
LITELLM_KEY = "sk-bench"


@dataclass(frozen=True)
class Candidate:
    """One gateway: where it listens, the key that it wants, and its process; no process for nothing between."""

    name: str
    port: int
    key: str
    process: psutil.Process | None

    @property
    def url(self) -> str:
        """Where the load goes."""
        return f"http://127.0.0.1:{self.port}/v1/chat/completions"

    def cpu_seconds(self) -> float:
        """CPU time of its processes so far, user and system."""
        return sum(cpu.user + cpu.system for cpu in (process.cpu_times() for process in self._tree()))

    def rss(self) -> int:
        """Resident bytes of its processes."""
        return sum(process.memory_info().rss for process in self._tree())

    def pause(self, stopped: bool) -> None:
        """Stops it while another is measured, or lets it go on."""
        for process in self._tree():
            process.send_signal(signal.SIGSTOP if stopped else signal.SIGCONT)

    def _tree(self) -> list[psutil.Process]:
        return [] if self.process is None else [self.process, *self.process.children(recursive=True)]


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def process(
    command: Sequence[str | Path], core: int, log: Path, cwd: Path | None = None, **environment: str
) -> Iterator[psutil.Process]:
    """A process on one core, with its output in ``log``; it is ended with the block."""
    variables = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", **environment}
    with log.open("ab") as output:
        started = psutil.Popen(
            list(map(str, command)), stdout=output, stderr=output, cwd=cwd, env=variables,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )  # fmt: skip
    try:
        yield started
    finally:
        tree = [started, *started.children(recursive=True)] if started.is_running() else []
        for each in tree:
            each.send_signal(signal.SIGCONT)
            each.terminate()
        for each in psutil.wait_procs(tree, timeout=20)[1]:
            each.kill()


@contextmanager
def candidates(
    names: Sequence[str], upstream: int, body: bytes, folder: Path, tokens: bool = False
) -> Iterator[list[Candidate]]:
    """Those gateways in front of the upstream's port, each paused once it has answered ``body``; see `millrace`."""
    ours = partial(_millrace, tokens=tokens)
    start = {"nothing": _nothing, "millrace": ours, "vllm-router": _vllm_router, "litellm": _litellm}
    with ExitStack() as stack:
        found = []
        for name in names:
            place = folder / name
            place.mkdir(parents=True, exist_ok=True)
            candidate = stack.enter_context(start[name](upstream, place))
            wait_for(candidate, body, place / "log")
            candidate.pause(stopped=True)
            found.append(candidate)
        yield found


def install(name: str) -> Path:
    """The folder of a peer's commands; installed where it is missing."""
    home = cache_dir() / "bench" / PEERS[name].replace("[", "-").replace("]", "")
    if not (home / "done").exists():
        print(f"installing {PEERS[name]} under {home} ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
        subprocess.run([home / "bin" / "pip", "install", "--quiet", "--quiet", PEERS[name]], check=True)
        (home / "done").touch()
    return home / "bin"


def wait_for(candidate: Candidate, body: bytes, log: Path, seconds: float = 120) -> None:
    """Returns once it answers the chat completion.

    Raises:
        SystemExit: it does not in time; with the end of its log.
    """
    headers = {"content-type": "application/json", "authorization": f"Bearer {candidate.key}"}
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(urllib.request.Request(candidate.url, body, headers), timeout=60):
                return
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > deadline:
                said = log.read_text(errors="replace")[-2000:] if log.exists() else ""
                raise SystemExit(f"{candidate.name} does not answer: {error}\n{said}") from None
        time.sleep(0.1)


@contextmanager
def _nothing(upstream: int, _folder: Path) -> Iterator[Candidate]:
    yield Candidate("nothing", upstream, "none", None)


@contextmanager
def _millrace(upstream: int, folder: Path, tokens: bool) -> Iterator[Candidate]:
    with millrace({MODEL: upstream}, folder, tokens) as candidate:
        yield candidate


@contextmanager
def millrace(
    upstreams: Mapping[str, int], folder: Path, tokens: bool = False, name: str = "millrace", checkout: Path = ROOT
) -> Iterator[Candidate]:
    """Ours as it comes: keys, meter, prices and spool on.

    Args:
        upstreams: public model -> the port of its engine.
        folder: for its data.
        tokens: the log keeps token ids and log-probabilities, so that the engine is asked for them.
        name: what it is called among the candidates.
        checkout: the folder with its code.
    """
    port, config = free_port(), folder / "millrace.yaml"
    settings = {
        "data_dir": str(folder / "data"),
        "gateway": {"port": port, "workers": 1, "max_concurrent": 4096},
        "engines": [
            {"name": name, "url": f"http://127.0.0.1:{each}", "base_model": MODEL} for name, each in upstreams.items()
        ],
        "models": {
            name: {"engine": name, "price": {"input": 0.1, "cached_input": 0.05, "output": 0.2}} for name in upstreams
        },
        "log": {
            "port": free_port(), "spool": {"max_bytes": "8GiB"}, **({"policy": {"tokens": True}} if tokens else {}),
        },
    }  # fmt: skip
    config.write_text(yaml.safe_dump(settings))
    millrace = [sys.executable, "-m", "millrace"]
    create = [*millrace, "keys", "create", "--config", str(config)]
    code = {"PYTHONPATH": str(checkout)}
    made = subprocess.run(create, capture_output=True, text=True, check=True, cwd=checkout, env={**os.environ, **code})
    key = made.stdout.strip()
    command = [*millrace, "serve", "gateway", "--config", str(config)]
    with process(command, GATEWAY_CORE, folder / "log", checkout, **code) as started:
        yield Candidate(name, port, key, started)


@contextmanager
def _vllm_router(upstream: int, folder: Path) -> Iterator[Candidate]:
    port, metrics = free_port(), free_port()
    command = [
        install("vllm-router") / "vllm-router", "--host", "127.0.0.1", "--port", str(port),
        "--worker-urls", f"http://127.0.0.1:{upstream}", "--policy", "round_robin",
        "--prometheus-port", str(metrics), "--log-level", "error",
    ]  # fmt: skip
    with process(command, GATEWAY_CORE, folder / "log", folder) as started:
        yield Candidate("vllm-router", port, "none", started)


@contextmanager
def _litellm(upstream: int, folder: Path) -> Iterator[Candidate]:
    port, config = free_port(), folder / "litellm.yaml"
    model = {"model": f"openai/{MODEL}", "api_base": f"http://127.0.0.1:{upstream}/v1", "api_key": "none"}
    settings = {
        "model_list": [{"model_name": MODEL, "litellm_params": model}],
        "general_settings": {"master_key": LITELLM_KEY},
        "litellm_settings": {"telemetry": False},
    }
    config.write_text(yaml.safe_dump(settings))
    command = [
        install("litellm") / "litellm", "--config", config, "--host", "127.0.0.1", "--port", str(port),
        "--num_workers", "1",
    ]  # fmt: skip
    with process(command, GATEWAY_CORE, folder / "log", folder) as started:
        yield Candidate("litellm", port, LITELLM_KEY, started)
