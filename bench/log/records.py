# SPDX-License-Identifier: Apache-2.0
"""Records of 1.2 kB, as a gateway with the payload on makes them, no two alike."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

from contract.records import Invocation, Status, encode
from contract.settings import SpoolSettings
from logger.spool import Spool, claim_producer

_WORDS = ("ticket", "battery", "refund", "kettle", "late", "parcel", "broken", "thanks", "twice", "please", "why", "a")
_PARAMETERS = json.dumps({"max_tokens": 64, "temperature": 0.5, "seed": None, "logprobs": True, "top_p": 1.0})
_POOL = 997


def records(count: int) -> Iterator[Invocation]:
    """That many; an object is used again with another id and time once `_POOL` others came in between."""
    dice = random.Random(1)
    pool = [_record(dice) for _ in range(min(count, _POOL))]
    for number in range(count):
        record = pool[number % _POOL]
        record.id, record.time = f"inv_{dice.getrandbits(128):032x}", 1_790_000_000_000_000_000 + number * 100_000
        yield record


def average_bytes() -> int:
    """Bytes of one record as MessagePack."""
    return round(sum(len(encode(record)) for record in records(_POOL)) / _POOL)


def fill(spool: Path, count: int, settings: SpoolSettings) -> None:
    """Writes that many records as one producer, as fast as it goes."""
    producer = claim_producer(spool, "gateway")
    writer = Spool(producer, settings)
    for record in records(count):
        writer.append(record)
    writer.close()
    producer.release()


def _record(dice: random.Random) -> Invocation:
    prompt = [{"role": "user", "content": _text(dice, 200)}]
    choices = [{"index": 0, "message": {"role": "assistant", "content": _text(dice, 175)}, "finish_reason": "stop"}]
    tokens = dice.randrange(20, 200)
    return Invocation(
        id="", time=0, project="default", key=f"key_{dice.getrandbits(64):016x}", endpoint="/v1/chat/completions",
        status=Status.COMPLETE, alias="triage", version="triage@0123456789ab", replica="small-0", attempts=1,
        user=f"user-{dice.randrange(1000)}", parameters=_PARAMETERS, messages=json.dumps(prompt),
        choices=json.dumps(choices), prompt_tokens=tokens, cached_tokens=0, completion_tokens=dice.randrange(1, 64),
        usage_source="reported", cost=tokens * 20, price_version="0123456789ab", finish_reasons=["stop"],
        http_status=200, queue_ns=dice.randrange(10**5), first_byte_ns=dice.randrange(10**9),
        total_ns=dice.randrange(10**9), overhead_ns=dice.randrange(10**5),
    )  # fmt: skip


def _text(dice: random.Random, length: int) -> str:
    return " ".join(dice.choices(_WORDS, k=length // 4))[:length]
