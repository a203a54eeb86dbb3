# SPDX-License-Identifier: Apache-2.0
"""What the log costs and carries on this machine: ``python -m bench.log`` writes ``bench/results/log.json``.

Records of 1.2 kB. The spool's figure is one append on one thread, as a gateway makes it; the store's is spools to
DuckDB, commits and deletions included.
"""

import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

from contract.records import Invocation, Status, encode
from contract.settings import LogSettings, SpoolSettings
from logger.ingest import DirectIngester
from logger.spool import Spool, claim_producer
from logger.store import Store

RESULTS = Path(__file__).parent / "results" / "log.json"
RECORDS = 100_000


def record() -> Invocation:
    """An answer of 1.2 kB as MessagePack."""
    return Invocation(
        id="inv_" + "0" * 44, time=time.time_ns(), project="default", key="key_" + "0" * 32,
        endpoint="/v1/chat/completions", status=Status.COMPLETE, alias="triage", version="triage@0123456789ab",
        messages=json.dumps([{"role": "user", "content": "x" * 600}]), choices='[{"index":0,"finish_reason":"stop"}]',
        prompt_tokens=150, completion_tokens=1, cost=12345, finish_reasons=["stop"], total_ns=10**8,
    )  # fmt: skip


def append(folder: Path, durability: str, count: int) -> dict[str, Any]:
    """Microseconds per append, of the clock and of the CPU."""
    producer = claim_producer(folder, durability)
    spool = Spool(producer, SpoolSettings.model_validate({"durability": durability}))
    one = record()
    clock, cpu = time.perf_counter(), time.thread_time()
    for _ in range(count):
        spool.append(one)
    clock, cpu = time.perf_counter() - clock, time.thread_time() - cpu
    spool.close()
    producer.release()
    return {"records": count, "microseconds": clock / count * 1e6, "cpu_microseconds": cpu / count * 1e6}


def ingest(folder: Path) -> dict[str, Any]:
    """Records per second from a spool into the store."""
    settings = LogSettings()
    producer = claim_producer(folder / "spool", "gateway")
    spool, one = Spool(producer, settings.spool), record()
    for _ in range(RECORDS):
        spool.append(one)
    spool.close()
    producer.release()
    store = Store(folder / "log.duckdb", settings.store)
    ingester = DirectIngester(store, folder / "spool", settings)
    clock, cpu = time.perf_counter(), time.process_time()
    while store.cursor < RECORDS:
        ingester.step()
    clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
    ingester.finish()
    store.close()
    return {"records": RECORDS, "seconds": clock, "cpu_seconds": cpu, "records_per_second": RECORDS / clock}


def main() -> None:
    """Measures and writes the figures down."""
    counts = {"process": 50_000, "batch": 50_000, "request": 500}
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        folder = Path(name)
        figures = {
            "machine": {"cpus": os.cpu_count(), "load": os.getloadavg()[0], "python": platform.python_version()},
            "record_bytes": len(encode(record())),
            "append": {durability: append(folder, durability, count) for durability, count in counts.items()},
            "ingest": ingest(folder),
        }
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
