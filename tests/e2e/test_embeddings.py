# SPDX-License-Identifier: Apache-2.0
"""Embeddings from a real engine that makes them."""

import math
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import BadRequestError, OpenAI

from contract.settings import EngineLaunch
from millrace import engine as engines
from millrace.fetch import cache_dir
from millrace.model import ensure_model
from tests.e2e import stack as stacks
from tests.e2e.lone import PRICE, Lone, lone_gateway

MODEL = "smollm2-135m"


@pytest.fixture(scope="module")
def lone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lone]:
    folder, (port,) = tmp_path_factory.mktemp("pooling"), stacks.free_ports(1)
    model = ensure_model(MODEL, cache_dir())
    launch = EngineLaunch(model=MODEL, port=port, kv_cache=2**30, eager=True)
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--port", str(port),
        "--served-model-name", MODEL, "--runner", "pooling", "--max-model-len", "512", "--enforce-eager",
    ]  # fmt: skip
    environment = {**os.environ, **engines.environment(launch, model, cache_dir())}
    with (folder / "engine.log").open("wb") as log:
        engine = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/health", engine, folder / "engine.log")
        with lone_gateway(folder, url) as gateway:
            yield gateway
    finally:
        engine.terminate()
        engine.wait(60)


def wait_for(url: str, engine: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 600
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError):
            assert engine.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.2)


def length(vector: list[float]) -> float:
    return math.sqrt(sum(value * value for value in vector))


@pytest.mark.timeout(900)
def test_embeddings_come_as_the_client_asks_and_are_metered(lone: Lone) -> None:
    texts = ["a quick fox", "a fast fox", "the price of copper fell"]
    with OpenAI(base_url=f"{lone.url}/v1", api_key=lone.key, max_retries=0) as client:
        packed = client.embeddings.create(model="small", input=texts)  # base64 on the wire
        plain = client.embeddings.create(model="small", input=texts, encoding_format="float")
        with pytest.raises(BadRequestError) as caught:
            client.chat.completions.create(model="small", messages=[{"role": "user", "content": "hi"}])
    first, second, third = (each.embedding for each in plain.data)
    assert [round(length(each.embedding), 2) for each in packed.data] == [1.0] * 3
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-3)
    near, far = (sum(a * b for a, b in zip(first, other, strict=True)) for other in (second, third))
    assert near > far
    assert (caught.value.param, caught.value.code) == ("model", "unsupported_model")
    done = [record for record in lone.invocations().values() if record.status == "complete"]
    assert [record.prompt_tokens for record in done] == [packed.usage.prompt_tokens, plain.usage.prompt_tokens]
    assert [(record.completion_tokens, record.choices) for record in done] == [(0, "[]")] * 2
    assert [record.cost for record in done] == [round(plain.usage.prompt_tokens * PRICE["input"] * 1000)] * 2
