# SPDX-License-Identifier: Apache-2.0
"""What a bill may rely on, however an engine says what it used and however the request ends: one promise a test."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contract.records import Invocation
from contract.settings import parse_settings
from tests.gateway.house import NO_LOGGER, SETTINGS, House, Ledger, leftovers, settings, spotless, until
from tests.gateway.raw import Asking, RawEngine, Say, chunked, framed, well
from tests.gateway.wire import asked, body, events_in, request, wire

BOTH_WAYS = True

# USD per million tokens of the model `plain`: input, cached input, output; here in nano-dollars a token.
INPUT, CACHED, OUTPUT = 500, 100, 2000


def chunk(text: str | None, usage: Any = ..., index: int = 0) -> bytes:
    choices = [] if text is None else [{"index": index, "delta": {"content": text}, "finish_reason": None}]
    return json.dumps(
        {"id": "x", "model": "base", "choices": choices, **({} if usage is ... else {"usage": usage})}
    ).encode()


def usage(prompt: int, completion: int, cached: int | None = None, reasoning: int | None = None) -> dict[str, Any]:
    told: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": completion}
    if cached is not None:
        told["prompt_tokens_details"] = {"cached_tokens": cached}
    if reasoning is not None:
        told["completion_tokens_details"] = {"reasoning_tokens": reasoning}
    return told


def streams(*events: bytes, done: bool = True) -> Say:
    async def say(asking: Asking) -> None:
        told = [b"data: " + event + b"\n\n" for event in [*events, *([b"[DONE]"] if done else [])]]
        await asking.say(chunked(*told, end=done))
        if not done:
            await asking.left()

    return say


async def billed(home: House, *events: bytes, **fields: Any) -> Invocation:
    """The record of a stream of these events."""
    home.engine.say, ledger = streams(*events), Ledger(home)
    ledger.new()
    assert (await asked(home, stream=True, **fields)).status == 200
    return await ledger.next()


async def hung_up_after(home: House, *events: bytes, **fields: Any) -> Invocation:
    """The record of a stream whose client leaves after these events."""
    home.engine.say, ledger = streams(*events, done=False), Ledger(home)
    ledger.new()
    async with wire(home) as client:
        client.say(request(home, body(stream=True, **fields)))
        await until(lambda: any(record.status == "open" for record in home.invocations()))
        await until(
            lambda: home.worker.doors and all(door.active and door.active.started for door in home.worker.doors)
        )
    return await ledger.next()


def figures(record: Invocation) -> tuple[Any, ...]:
    return record.prompt_tokens, record.cached_tokens, record.completion_tokens, record.usage_source, record.cost


async def test_usage_on_a_last_chunk_that_has_choices_is_billed_whole(raw_home: House) -> None:
    record = await billed(raw_home, chunk("a"), chunk("b", usage(10, 2, cached=8)))
    assert figures(record) == (10, 8, 2, "reported", 2 * INPUT + 8 * CACHED + 2 * OUTPUT)


async def test_usage_on_a_chunk_of_its_own_is_billed_whole(raw_home: House) -> None:
    record = await billed(raw_home, chunk("a"), chunk("b"), chunk(None, usage(10, 2, cached=8)))
    assert figures(record) == (10, 8, 2, "reported", 2 * INPUT + 8 * CACHED + 2 * OUTPUT)


async def test_usage_on_every_chunk_is_billed_once(raw_home: House) -> None:
    record = await billed(raw_home, chunk("a", usage(10, 1)), chunk("b", usage(10, 2)), chunk(None, usage(10, 2)))
    assert figures(record) == (10, None, 2, "reported", 10 * INPUT + 2 * OUTPUT)


async def test_usage_on_the_first_chunk_alone_is_not_the_bill_of_what_followed(raw_home: House) -> None:
    record = await billed(raw_home, chunk("", usage(10, 0)), chunk("a"), chunk("b"), chunk("c"))
    assert figures(record) == (10, None, 3, "estimated", 10 * INPUT + 3 * OUTPUT)


async def test_usage_that_is_null_or_absent_is_estimated_and_never_free(raw_home: House) -> None:
    for nothing in ({}, {"usage": None}):
        record = await billed(raw_home, *(chunk(text, **nothing) for text in ("a", "b")), chunk("", **nothing))
        assert (record.completion_tokens, record.usage_source) == (2, "estimated")
        assert record.cost is not None and record.cost >= 2 * OUTPUT


async def test_usage_of_zero_stays_zero(raw_home: House) -> None:
    record = await billed(raw_home, chunk("a"), chunk("b"), chunk(None, usage(0, 0)))
    assert figures(record) == (0, None, 0, "reported", 0)
    record = await hung_up_after(raw_home, chunk("a"), chunk("b"), chunk(None, usage(0, 0)))
    assert (record.status, *figures(record)) == ("aborted", 0, None, 0, "reported", 0)


async def test_reasoning_is_kept_apart_and_billed_once(raw_home: House) -> None:
    record = await billed(raw_home, chunk("a"), chunk(None, usage(10, 7, reasoning=5)))
    assert (record.completion_tokens, record.reasoning_tokens) == (7, 5)
    assert record.cost == 10 * INPUT + 7 * OUTPUT


async def test_a_hang_up_before_the_usage_chunk_pays_for_what_came(raw_home: House) -> None:
    record = await hung_up_after(raw_home, chunk("a"), chunk("b"))
    assert (record.status, record.completion_tokens, record.usage_source) == ("aborted", 2, "estimated")
    assert record.cost is not None and record.cost >= 2 * OUTPUT


async def test_a_hang_up_after_the_usage_chunk_pays_what_it_says(raw_home: House) -> None:
    record = await hung_up_after(raw_home, chunk("a"), chunk("b"), chunk(None, usage(10, 2, cached=8)))
    assert (record.status, *figures(record)) == (
        "aborted", 10, 8, 2, "reported", 2 * INPUT + 8 * CACHED + 2 * OUTPUT,
    )  # fmt: skip


async def test_a_hang_up_amid_several_choices_pays_for_each(raw_home: House) -> None:
    told = [chunk("a", usage(10, 1), 0), chunk("b", usage(10, 1), 1), chunk("c", usage(10, 2), 1)]
    record = await hung_up_after(raw_home, *told, n=2)
    assert figures(record) == (10, None, 3, "reported", 10 * INPUT + 3 * OUTPUT)


async def test_the_client_that_asks_for_usage_is_told_what_it_pays_for(raw_home: House) -> None:
    for events in (
        [chunk("a", usage(10, 1)), chunk(None, usage(10, 1))],
        [chunk("a", usage(10, 1))],
        [chunk("a"), chunk(None, usage(10, 1))],
    ):
        raw_home.engine.say, ledger = streams(*events), Ledger(raw_home)
        ledger.new()
        told = await asked(raw_home, stream=True, stream_options={"include_usage": True})
        record = await ledger.next()
        *_, last, done = events_in(told.body)
        shown = json.loads(last)
        assert done == b"[DONE]" and shown["usage"]["completion_tokens"] == record.completion_tokens == 1
        assert float(shown["x_millrace_cost"]) * 10**9 == pytest.approx(record.cost)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_request_that_was_sent_again_is_billed_once(
    raw_engine: RawEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture, streamed: bool
) -> None:
    other, tried = RawEngine(), 0
    await other.start()

    async def first_badly(asking: Asking) -> None:
        nonlocal tried
        tried += 1
        if tried == 1:
            said = b'{"error":{"message":"no","code":500},"choices":[],"usage":null}'
            await asking.say(chunked(b"data: " + said + b"\n\n") if streamed else framed(said, status="500 Error"))
        else:
            await well(asking)

    raw_engine.say = other.say = first_badly
    text = SETTINGS.format(
        data_dir=tmp_path, url=raw_engine.url, gateway="", policy="", adapter="", spool="64MiB", log_port=NO_LOGGER
    )
    configured = parse_settings(text.replace(f'url: "{raw_engine.url}"', f'url: ["{raw_engine.url}", "{other.url}"]'))
    async with spotless(raw_engine, configured, caplog) as home:
        (replicas,) = home.worker.routes.replicas.values()
        await until(lambda: all(replica.healthy for replica in replicas))
        assert (await asked(home, stream=streamed)).status == 200
        record = home.final()
        assert (record.status, record.attempts, tried) == ("complete", 2, 2)
        assert figures(record) == (7, None, 2, "reported", 7 * INPUT + 2 * OUTPUT)
        assert 'millrace_tokens_total{kind="completion",model="plain"} 2.0' in home.worker.metrics.page().decode()
        await other.stop()


async def test_what_failed_is_free_and_what_was_refused_used_nothing(raw_home: House) -> None:
    ledger = Ledger(raw_home)
    raw_home.engine.say = streams(chunk("a", usage(10, 1)), b"not JSON")
    await asked(raw_home, stream=True)
    failed = await ledger.next()
    assert (failed.status, failed.completion_tokens, failed.cost) == ("failed", 1, 0)
    await asked(raw_home, temperature=9)
    assert figures(await ledger.next()) == (None, None, None, None, None)


ENDS: dict[str, tuple[Say, dict[str, Any]]] = {}


def end(name: str, **fields: Any) -> Callable[[Say], Say]:
    def add(say: Say) -> Say:
        ENDS[name] = (say, fields)
        return say

    return add


end("whole")(well)
end("streamed", stream=True)(well)
end("refused by us", temperature=9)(well)
end("no such field", chat_template="x")(well)


@end("refused by the engine")
async def _refused(asking: Asking) -> None:
    await asking.say(framed(b'{"error":{"message":"no","code":400}}', status="400 Bad Request"))


@end("full", stream=True)
async def _full(asking: Asking) -> None:
    await asking.say(framed(b"", status="503 Service Unavailable"))


@end("reset")
@end("reset amid a stream", stream=True)
async def _reset(asking: Asking) -> None:
    await asking.say(chunked(b"data: " + chunk("a") + b"\n\n", end=False))
    asking.reset()


@end("too late")
@end("too late amid a stream", stream=True)
async def _late(asking: Asking) -> None:
    await asking.say(chunked(b"data: " + chunk("a") + b"\n\n", end=False))
    await asking.left()


async def test_however_a_request_ends_its_place_is_free_for_the_next(
    raw_engine: RawEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    configured = settings(
        tmp_path, raw_engine.url, gateway="max_concurrent: 1, read_timeout: 200ms, first_byte_timeout: 200ms",
        adapter=", max_concurrent: 1, max_queue: 0",
    )  # fmt: skip
    async with spotless(raw_engine, configured, caplog) as home:
        ledger = Ledger(home)
        for name, (say, fields) in ENDS.items():
            raw_engine.say = say
            await asked(home, model="triage", **fields)
            await ledger.next()
            async with wire(home) as client:  # and one that hangs up
                raw_engine.say = _late
                client.say(request(home, body(model="triage", stream=True)))
                await until(lambda: home.worker.limits.in_flight == 1)
            await ledger.next()
            await until(lambda: not leftovers(home))
            raw_engine.say = well
            assert (await asked(home, model="triage")).status == 200, name
            await ledger.next()
