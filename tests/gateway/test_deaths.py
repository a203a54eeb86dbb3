# SPDX-License-Identifier: Apache-2.0
"""A real gateway is killed at every point that a producer passes, with clients on it; the log holds what they saw."""

import asyncio
import contextlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2
import pytest

from contract.settings import StoreSettings
from logger import faults
from logger.store import Store
from tests.gateway.engine import FakeEngine
from tests.gateway.test_server import Gateway
from tests.logger.process import Logger, until
from tests.logger.writer import tear

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
SEGMENTS = "spool: {segment_bytes: 64KiB}"
QUESTION = "x" * 4000
TOGETHER = 4


class Seen:
    """What clients got: ids of answers that began, and of those that were whole."""

    def __init__(self) -> None:
        self.began: set[str] = set()
        self.whole: set[str] = set()

    async def ask(self, gateway: Gateway, stream: bool) -> bool:
        """One request; whether the gateway was there to the end of it."""
        body = {"model": "plain", "messages": [{"role": "user", "content": QUESTION}], "stream": stream}
        headers = {"authorization": f"Bearer {gateway.secret}"}
        try:
            async with (
                httpx2.AsyncClient(timeout=30, verify=False) as http,
                http.stream("POST", f"{gateway.url}/v1/chat/completions", json=body, headers=headers) as answer,
            ):
                assert answer.status_code == 200
                identifier = answer.headers["x-request-id"]
                self.began.add(identifier)
                text = (await answer.aread()).decode()
        except httpx2.TransportError:
            return False
        assert text.rstrip().endswith("[DONE]") if stream else json.loads(text)["choices"]
        self.whole.add(identifier)
        return True

    async def ask_until_it_dies(self, gateway: Gateway, streams_alone: bool) -> None:
        """Several clients at once, streams and whole answers in turn, each until the gateway is gone."""

        async def client(first: bool) -> None:
            stream = first or streams_alone
            while await self.ask(gateway, stream):
                stream = not stream or streams_alone

        async with asyncio.timeout(60):
            await asyncio.gather(*(client(number % 2 == 0) for number in range(TOGETHER)))


async def dies(
    gateway: Gateway, seen: Seen, point: str, count: int, monkeypatch: pytest.MonkeyPatch, streams_alone: bool = False
) -> None:
    """One life that ends at the point, at the start or under load."""
    with monkeypatch.context() as patched:
        patched.setenv("MILLRACE_FAULT", f"{point}:{count}")
        before = getattr(gateway, "process", None)
        starting = asyncio.create_task(gateway.start())
        while not starting.done() and (
            getattr(gateway, "process", None) is before or gateway.process.returncode is None
        ):
            await asyncio.sleep(0.01)
    if starting.done():
        starting.result()
        await seen.ask_until_it_dies(gateway, streams_alone)
    else:
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starting
    assert await gateway.process.wait() == -9, (gateway.folder / "log").read_text()


async def test_killed_at_every_point_of_a_producer_a_gateway_loses_nothing_that_a_client_saw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, seen = FakeEngine(), Seen()
    await engine.start()
    gateway = Gateway(tmp_path, engine, workers=1, log=SEGMENTS)
    lives: list[tuple[faults.Point, int]] = [(point, 7 if point == "after_append" else 1) for point in faults.WRITER]
    try:
        for point, count in lives:
            if point == "after_cut":
                tear(tmp_path / "data" / "spool")
            if point == "after_interrupted":  # the first record of streams alone is an open entry
                await dies(gateway, seen, "after_append", 1, monkeypatch, streams_alone=True)
            await dies(gateway, seen, point, count, monkeypatch)
        await gateway.start()
        assert await seen.ask(gateway, stream=True)
    finally:
        engine.release.set()
        await gateway.stop()
        await engine.stop()
    assert seen.whole
    await asyncio.to_thread(holds, tmp_path, seen)


def holds(folder: Path, seen: Seen) -> None:
    """The log has each answer once: whole, where a client saw it whole, and else whole or interrupted."""
    logger = Logger(folder / "logger", data=folder / "data")

    def behind() -> list[Any]:
        return [row for row in logger.health().get("producers", [{"records": 1}]) if row["records"] or row.get("error")]

    until(lambda: logger.health().get("cursor", 0) >= len(seen.began) and not behind(), what="ingestion")
    assert logger.stop() == 0
    store = Store(folder / "data" / "store" / "log.duckdb", StoreSettings())
    rows = store.fetch("SELECT id, status FROM invocations")
    store.close()
    assert [name for name, count in Counter(row["id"] for row in rows).items() if count > 1] == []
    status = {row["id"]: row["status"] for row in rows}
    assert {name for name in seen.whole if status.get(name) != "complete"} == set(), "lost"
    assert seen.began - set(status) == set(), "began and gone"
    assert set(status.values()) == {"complete", "interrupted"}
