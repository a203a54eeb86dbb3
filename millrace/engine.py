# SPDX-License-Identifier: Apache-2.0
"""How a vLLM engine is started here: its command, its environment, and what its last words mean.

The engine is private whatever its API key says (its adapter routes are open), so it listens on the loopback interface
only and every request reaches it through the gateway.
"""

import ctypes.util
import os
import re
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from contract.settings import Engine, EngineLaunch

_SERVER = "vllm.entrypoints.openai.api_server"


def command(engine: Engine, launch: EngineLaunch, model: Path, python: str = sys.executable) -> list[str]:
    """The engine's command line.

    ``--generation-config vllm`` keeps the model's own sampling defaults out, so that the logged parameters are the
    effective ones; ``--logprobs-mode processed_logprobs`` makes logged logprobs those of the sampling distribution.
    """
    arguments = {
        "--model": str(model),
        "--served-model-name": engine.base_model,
        "--host": "127.0.0.1",
        "--port": str(launch.port),
        "--dtype": launch.dtype,
        "--max-model-len": str(launch.max_model_len),
        "--max-lora-rank": str(launch.max_lora_rank),
        "--max-loras": str(launch.max_loras),
        "--max-cpu-loras": str(launch.max_cpu_loras),
        "--max-num-queued-reqs": str(launch.max_queued),
        "--generation-config": "vllm",
        "--logprobs-mode": "processed_logprobs",
    }
    flags = [
        "--enable-lora",
        "--enable-prompt-tokens-details",
        "--enable-request-id-headers",
        "--disable-uvicorn-access-log",  # a line per request, of which the log has the whole
    ]
    if launch.eager:
        flags.append("--enforce-eager")
    return [python, "-m", _SERVER, *(part for pair in arguments.items() for part in pair), *flags]


def environment(
    launch: EngineLaunch, model: Path, cache: Path, inherited: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """The engine's environment: adapters at run time, no telemetry, no look at a hub for a model that is a folder."""
    result = {
        **inherited,
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_CPU_KVCACHE_SPACE": str(launch.kv_cache // 2**30),
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CACHE_ROOT": str(cache / "vllm"),
    }
    if model.is_dir():
        result["HF_HUB_OFFLINE"] = "1"
    allocator = ctypes.util.find_library("tcmalloc_minimal")
    if allocator and "LD_PRELOAD" not in inherited:
        result["LD_PRELOAD"] = allocator  # advised by vLLM for its CPU backend
    return result


_MEMORY = "there is too little memory; lower engines[].launch.kv_cache or max_model_len"

# What an engine prints when it cannot start -> what to do. The first that matches the tail of its log is said.
_LAST_WORDS = [
    (r"address already in use", "port {port} is taken; set engines[].launch.port to a free one"),
    (
        r"No available memory for the cache blocks|not enough memory|MemoryError|Cannot allocate memory|out of memory"
        r"|larger than the available|Failed core proc\(s\): .*: -9\b",
        _MEMORY,
    ),
    (
        r"is not a valid model identifier|Repository Not Found|LocalEntryNotFoundError|couldn't connect to"
        r"|no file named",
        "the model {model} cannot be found; it must be smollm2-135m, a local folder or a reachable hub id",
    ),
    (r"No module named 'vllm'", "vLLM is not installed here; `make install` installs it"),
    (
        r"maximum model len|max_model_len .* is greater",
        "engines[].launch.max_model_len is over what the model was made for",
    ),
]


def explain(log_tail: str, code: int | None, launch: EngineLaunch) -> str | None:
    """What went wrong in words, from an engine's last lines and its exit code; None where nothing known is found."""
    for pattern, advice in _LAST_WORDS:
        if re.search(pattern, log_tail, re.IGNORECASE):
            return advice.format(port=launch.port, model=launch.model)
    if code == -signal.SIGKILL:  # of which it can say nothing itself; most often the kernel's, out of memory
        return f"something killed it, most often because {_MEMORY}"
    return None
