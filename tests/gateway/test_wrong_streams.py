# SPDX-License-Identifier: Apache-2.0
"""Streams that are cut, come in pieces or hold what is no event: a client gets whole events, and is told once."""

import asyncio
import json
import os
import random
from collections.abc import Callable

import pytest

from contract.records import Invocation
from tests.gateway.house import House, Ledger, until
from tests.gateway.raw import DEEP, Asking, RawEngine, chunked, chunks
from tests.gateway.wire import Response, asked, body, events_in, request, text_in, wire

BOTH_WAYS = True
pytestmark = pytest.mark.slow

SOAK = int(os.environ.get("MILLRACE_SOAK", "0"))
WORDS = ("Zürich ", "\U0001f63a", "日")


def plain_events(asking: Asking) -> bytes:
    return b"".join(b"data: " + event + b"\n\n" for event in [*chunks(asking, *WORDS), b"[DONE]"])


def with_crlf(asking: Asking) -> bytes:
    return plain_events(asking).replace(b"\n", b"\r\n")


def with_comments(asking: Asking) -> bytes:
    return b": hi\n\n" + plain_events(asking).replace(b"data: ", b": keep-alive\n\nevent: x\nid: 1\nretry: 5\ndata:")


def with_lines(asking: Asking) -> bytes:
    """Each event's data over several lines."""
    documents = [json.dumps(json.loads(event), indent=0, ensure_ascii=False) for event in chunks(asking, *WORDS)]
    told = [document.encode().replace(b"\n", b"\ndata: ") for document in documents]
    return b"".join(b"data: " + event + b"\n\n" for event in [*told, b"[DONE]"])


def told_wrongly(told: Response, record: Invocation, came: bytes) -> str:
    """What is wrong with what a client was told of a stream of which so much came; nothing where nothing is."""
    engine = events_in(came)
    chunks_came = [json.loads(event) for event in engine if event != b"[DONE]"]
    if not chunks_came:
        fine = told.status == 502 and told.code == "engine_error" and record.status == "failed"
        return "" if fine and record.completion_tokens is None else "no event came"
    client = events_in(told.body)
    if told.status != 200 or not told.body.endswith(b"\n") or text_in(client) != text_in(engine):
        return "not what the engine said"
    (choice,) = json.loads(record.choices or "")
    if (choice["message"]["content"] or "") != text_in(client):
        return "not what the record says"
    last = chunks_came[-1]["usage"]["completion_tokens"]
    if (record.usage_source, record.prompt_tokens, record.completion_tokens) != ("reported", 7, last):
        return f"usage {record.completion_tokens}"
    if b"[DONE]" in engine:
        fine = client[-1] == b"[DONE]" and record.status == "complete"
    else:
        code = json.loads(client[-1]).get("error", {}).get("code")
        fine = code == record.error_code == "engine_error" and record.status == "failed" and record.cost == 0
    return "" if fine else "its end"


@pytest.mark.soak
@pytest.mark.timeout(120 + SOAK)
@pytest.mark.parametrize("events", [plain_events, with_crlf, with_comments, with_lines])
@pytest.mark.parametrize("cleanly", [False, True])
async def test_a_stream_cut_at_any_byte_gives_whole_events_one_record_and_the_same_text_in_both(
    raw_engine: RawEngine, raw_home: House, events: Callable[[Asking], bytes], cleanly: bool
) -> None:
    wrong, ledger, came, cut = {}, Ledger(raw_home), b"", 0

    async def say(asking: Asking) -> None:
        nonlocal came
        came = events(asking)[:cut]
        await asking.say(chunked(came, end=cleanly))
        asking.writer.close()

    raw_engine.say = say
    length = len(events(Asking(1, "inv_" + "0" * 40, {}, asyncio.StreamReader(), None)))
    cuts = range(length + 1) if SOAK else sorted(random.Random(length).sample(range(length + 1), 60))
    async with wire(raw_home) as client:
        for cut in cuts:
            client.say(request(raw_home, body(stream=True)))
            told = await client.response()
            if why := told_wrongly(told, await ledger.next(), came):
                wrong[cut] = (why, came[-30:], told)
    assert wrong == {}


@pytest.mark.soak
@pytest.mark.timeout(120 + SOAK)
@pytest.mark.parametrize("events", [plain_events, with_crlf, with_comments, with_lines])
async def test_a_stream_in_any_two_pieces_is_the_same_stream(
    raw_engine: RawEngine, raw_home: House, events: Callable[[Asking], bytes]
) -> None:
    wrong, ledger, came, cut = {}, Ledger(raw_home), b"", 0

    async def say(asking: Asking) -> None:
        nonlocal came
        came = events(asking)
        await asking.say(chunked(came[:cut], came[cut:]))

    raw_engine.say = say
    length = len(events(Asking(1, "inv_" + "0" * 40, {}, asyncio.StreamReader(), None)))
    cuts = range(length) if SOAK else sorted(random.Random(length).sample(range(length), 60))
    async with wire(raw_home) as client:
        for cut in cuts:
            client.say(request(raw_home, body(stream=True)))
            told = await client.response()
            if why := told_wrongly(told, await ledger.next(), came):
                wrong[cut] = (why, told)
    assert wrong == {}


BAD_EVENTS: dict[str, bytes] = {
    "no JSON": b"{not json",
    "text that is no UTF-8": b'{"choices":[{"index":0,"delta":{"content":"\xff"}}]}',
    "nested too deeply": b'{"choices":[],"x":' + DEEP + b"}",
    "an error": b'{"error":{"message":"EngineCore died","code":500}}',
    "a number": b"5",
}


@pytest.mark.parametrize("together", [False, True])
async def test_what_came_before_a_bad_event_reaches_the_client_where_the_stream_has_begun(
    raw_engine: RawEngine, raw_home: House, together: bool
) -> None:
    ledger = Ledger(raw_home)
    for name, bad in BAD_EVENTS.items():

        async def say(asking: Asking, bad: bytes = bad) -> None:
            told = [b"data: " + event + b"\n\n" for event in [*chunks(asking, "he", "llo")[:2], bad]]
            await asking.say(chunked(b"".join(told)) if together else chunked(*told))

        raw_engine.say = say
        told, record = await asked(raw_home, stream=True), await ledger.next()
        assert (record.status, record.error_code, record.http_status) == ("failed", "engine_error", told.status), name
        if told.status == 502:  # it all came at once, and nothing of it had gone out
            assert (told.code, record.cost) == ("engine_error", 0), name
            continue
        *before, last = events_in(told.body)
        (choice,) = json.loads(record.choices or "")
        assert text_in(before) == choice["message"]["content"] == "he", name
        assert json.loads(last)["error"]["code"] == "engine_error", name


async def test_an_event_that_never_ends_is_a_failed_engine(
    raw_engine: RawEngine, raw_home: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.sse.MAX_EVENT", 100_000)

    async def say(asking: Asking) -> None:
        await asking.say(chunked(b"data: ", *[b"x" * 10_000] * 50, end=False))
        await asking.left()

    raw_engine.say, ledger = say, Ledger(raw_home)
    assert (await asked(raw_home, stream=True)).code == "engine_error"
    assert (await ledger.next()).status == "failed"
    await until(lambda: raw_engine.gone == 1)
