# SPDX-License-Identifier: Apache-2.0
"""What a key with limits costs a request: ``python -m bench.limits`` writes ``bench/results/limits.json``.

Microseconds of CPU for the check of the key, the reservation of its limits (requests and tokens a minute, requests at
once, a budget a month) and their settlement together, on one thread, at 10 and at 100,000 keys; slices are large enough
that the bank is asked once for each key, which is not counted.
"""

import json
import os
import platform
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gateway.keys import Key, KeyRing, digest_of
from gateway.quota import Dimension, Grant, Limit, Need, Purse

RESULTS = Path(__file__).parent / "results" / "limits.json"
KEYS = (10, 100_000)
REQUESTS = 200_000
_AMOUNT = 2**50
_NEED, _USED = Need(1, 1000, 5000), Need(1, 100, 500)
_LIMITED = (Dimension.REQUESTS, Dimension.TOKENS, Dimension.CONCURRENT, Dimension.MONTH)


def ring_of(count: int) -> tuple[KeyRing, list[str]]:
    """So many keys with limits, and the headers that name them."""
    keys, headers = {}, []
    for number in range(count):
        secret, name = f"mr-{number}", f"key_{number}"
        limits = tuple(Limit("key", name, dimension, _AMOUNT) for dimension in _LIMITED)
        keys[digest_of(secret)] = Key(name, "default", name, secret, 0, None, None, limits)
        headers.append(f"Bearer {secret}")
    return KeyRing(keys), headers


def fill(purse: Purse, keys: Sequence[Key], now: int) -> None:
    """Grants every key half of its limits."""
    for key in keys:
        claims = purse.claims([(key.limits, _NEED)], now, 0)
        purse.answered([(claim, Grant(_AMOUNT // 2, _AMOUNT // 2)) for claim in claims], 0)


def measure(count: int) -> dict[str, Any]:
    """Of one request, over keys in no order."""
    ring, headers = ring_of(count)
    purse, now, dice = Purse(), 1_700_000_040 * 10**9, random.Random(1)
    fill(purse, [ring.authenticate(header, now) for header in headers], now)
    asked = [dice.choice(headers) for _ in range(REQUESTS)]
    granted, cpu = 0, time.thread_time()
    for header in asked:
        key = ring.authenticate(header, now)
        hold = purse.reserve(key.limits, _NEED, now, 0)
        if hold is not None:
            granted += 1
            hold.settle(_USED)
    cpu = time.thread_time() - cpu
    assert granted == REQUESTS
    return {"keys": count, "requests": REQUESTS, "cpu_microseconds": cpu / REQUESTS * 1e6}


def main() -> None:
    """Measures and writes the figures down."""
    figures = {
        "machine": {"cpus": os.cpu_count(), "load": os.getloadavg()[0], "python": platform.python_version()},
        "limits": [each.value for each in _LIMITED],
        "runs": [measure(count) for count in KEYS],
    }
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
