# SPDX-License-Identifier: Apache-2.0
"""Engines that answer wrongly, in every way that bytes can be wrong: the client is told, once, and pays nothing.

After each wrong answer a right one follows, to see that nothing of the wrong one has stayed on its connection.
"""

import gzip
import json
from collections.abc import Callable

import pytest

from tests.gateway.house import House, Ledger, until
from tests.gateway.raw import DEEP, Asking, RawEngine, chunked, chunks, framed, well, whole_answer
from tests.gateway.wire import asked, events_in, text_in

BOTH_WAYS = True
pytestmark = pytest.mark.slow

FAILURES = {(502, "engine_error"), (503, "engine_unavailable")}


def answer(**changed: bytes) -> bytes:
    """A plain answer with some members written in another way."""
    members = {
        "id": b'"x"', "model": b'"base"', "choices": b'[{"index":0,"message":{"content":"a"},"finish_reason":"stop"}]',
        "usage": b'{"prompt_tokens":7,"completion_tokens":1}', **changed,
    }  # fmt: skip
    return b"{" + b",".join(b'"%b":%b' % (name.encode(), value) for name, value in members.items()) + b"}"


def said_of(message: bytes) -> bytes:
    return answer(choices=b'[{"index":0,"message":%b,"delta":%b}]' % (message, message))


NO_ANSWERS: dict[str, bytes] = {
    "nothing": b"",
    "another protocol": b"SSH-2.0-OpenSSH_9\r\n",
    "no status": b"HTTP/1.1\r\n\r\n",
    "status that is no number": b"HTTP/1.1 abc OK\r\n\r\n",
    "switches protocols": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
    "continues for ever": b"HTTP/1.1 100 Continue\r\n\r\n" * 5000,
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nfour5",
    "length and chunks": b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    "a head too long": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 2**16,
    "a header too long": b"HTTP/1.1 200 OK\r\nX: " + b"y" * 2**20,
    "no chunk size": chunked(end=False) + b"zz\r\n",
    "chunk longer than said": chunked(end=False) + b"2\r\nabcd\r\n0\r\n\r\n",
    "chunk too long": chunked(end=False) + b"ffffffffffffffffff\r\n",
    "chunks without an end": chunked(answer(), end=False),
    "empty": framed(b""),
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "not modified": b"HTTP/1.1 304 Not Modified\r\n\r\n",
    "elsewhere": framed(b"", "Location: http://127.0.0.1:1/", status="302 Found"),
    "a page": framed(b"<html><body>Welcome to nginx!</body></html>", "Content-Type: text/html"),
    "an error page": framed(b"<html>", status="500 Internal Server Error"),
    "a page of errors in bytes": framed(b"\xff\xfe{", status="500 Internal Server Error"),
    "null": framed(b"null"),
    "a list": framed(b"[]"),
    "a number": framed(b"7"),
    "no choices": framed(b"{}"),
    "an error that is a success": framed(b'{"error":{"message":"no","code":500}}'),
    "choices that are none": framed(answer(choices=b"5")),
    "half of the JSON": framed(answer()[:-20]),
    "shorter than said": framed(answer(), length=10_000),
    "longer than said": framed(answer(), length=len(answer()) - 1),
    "two documents": framed(answer() + answer()),
    "zipped": framed(gzip.compress(answer()), "Content-Encoding: gzip"),
    "text that is no UTF-8": framed(said_of(b'{"content":"a\xffb"}')),
    "name that is no UTF-8": framed(answer(model=b'"\xff"')),
    "half a surrogate pair": framed(said_of(b'{"content":"\\ud800"}')),
    "UTF-16": framed(answer().decode().encode("utf-16")),
    "a message that is a number": framed(said_of(b"5")),
    "a message that is a list": framed(said_of(b"[]")),
    "nested too deeply": framed(said_of(DEEP)),
    "nested too deeply where nobody looks": framed(answer(extra=DEEP)),
    "usage that is no number": framed(answer(usage=b'{"prompt_tokens":"7"}')),
    "a count that is a fraction": framed(answer(usage=b'{"prompt_tokens":7,"completion_tokens":1.5}')),
}


async def well_again(home: House, engine: RawEngine, ledger: Ledger, streamed: bool) -> str:
    """What is wrong with a right answer that comes next; nothing, where it is right."""
    engine.say = well
    after = await asked(home, stream=streamed)
    text = text_in(events_in(after.body)) if streamed else json.loads(after.body)["choices"][0]["message"]["content"]
    record = await ledger.next()
    return "" if (text, record.status) == ("hello", "complete") else f"the next answer: {after}"


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("closes", [False, True])
async def test_what_is_no_answer_is_a_failed_engine_told_once_and_free(
    raw_engine: RawEngine, raw_home: House, streamed: bool, closes: bool
) -> None:
    # Where the engine does not close, what it owes is cut by a total that is over at once.
    timeouts = raw_home.worker.upstream.timeouts
    wrong, ledger = {}, Ledger(raw_home)
    for name, said in NO_ANSWERS.items():

        async def say(asking: Asking, said: bytes = said) -> None:
            await asking.say(said)
            if closes:
                asking.writer.close()

        raw_engine.say = say
        raw_home.worker.upstream.timeouts = timeouts if closes else type(timeouts)(5.0, 0.1, 0.1, 5.0)
        told = await asked(raw_home, stream=streamed)
        raw_home.worker.upstream.timeouts = timeouts
        record = await ledger.next()
        fine = {*FAILURES, *((504, f"engine_{which}_timeout") for which in ("first_byte", "read"))}
        if told.status == 200 or (told.status, told.code) not in fine or told.code != record.error_code:
            wrong[name] = f"{told} {record.error_code}"
        elif (record.status, record.cost or 0) != ("failed", 0):
            wrong[name] = f"{record.status} {record.cost}"
        elif after := await well_again(raw_home, raw_engine, ledger, streamed):
            wrong[name] = after
    assert wrong == {}


ODD_ANSWERS: dict[str, Callable[[bytes], bytes]] = {
    "hints before": lambda said: b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + framed(said),
    "told to go on": lambda said: b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + framed(said),
    "one header often": lambda said: framed(said, *["X-Same: 1"] * 50),
    "chunk extensions and trailers": lambda said: (
        chunked(end=False) + b'%x;a="b"\r\n%b\r\n0\r\nX-Sum: 1\r\n\r\n' % (len(said), said)
    ),
    "a chunk a byte": lambda said: chunked(*(said[at : at + 1] for at in range(len(said)))),
    "an older protocol": lambda said: b"HTTP/1.0 200 OK\r\n\r\n" + said,
    "an end that is the connection's": lambda said: b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + said,
}


@pytest.mark.parametrize("byte_by_byte", [False, True])
async def test_an_answer_that_is_only_odd_is_an_answer(
    raw_engine: RawEngine, raw_home: House, byte_by_byte: bool
) -> None:
    ledger = Ledger(raw_home)
    for name, odd in ODD_ANSWERS.items():

        async def say(asking: Asking, odd: Callable[[bytes], bytes] = odd) -> None:
            said = odd(whole_answer(asking))
            await asking.say(*([said[at : at + 1] for at in range(len(said))] if byte_by_byte else [said]))
            asking.writer.close()

        raw_engine.say = say
        told = await asked(raw_home)
        assert (told.status, json.loads(told.body)["choices"][0]["message"]["content"]) == (200, "hello"), name
        assert (await ledger.next()).completion_tokens == 2


async def test_counts_that_no_record_can_hold_are_as_good_as_none(raw_engine: RawEngine, raw_home: House) -> None:
    async def say(asking: Asking) -> None:
        await asking.say(framed(answer(usage=b'{"prompt_tokens":99999999999999999999,"completion_tokens":1}')))

    raw_engine.say, ledger = say, Ledger(raw_home)
    assert (await asked(raw_home)).status == 200
    assert (await ledger.next()).usage_source == "estimated"


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_engine_that_is_reset_is_told_once(raw_engine: RawEngine, raw_home: House, streamed: bool) -> None:
    async def at_once(asking: Asking) -> None:
        asking.reset()

    async def amid(asking: Asking) -> None:
        said = chunked(*(b"data: " + event + b"\n\n" for event in chunks(asking, "he", "llo")[:2]), end=False)
        await asking.say(said if streamed else framed(whole_answer(asking))[:-5])
        asking.reset()

    ledger = Ledger(raw_home)
    for say in (at_once, amid):
        raw_engine.say = say
        told = await asked(raw_home, stream=streamed)
        record = await ledger.next()
        assert (record.status, record.cost or 0) == ("failed", 0)
        if told.status == 200:  # begun before the reset was seen
            assert json.loads(events_in(told.body)[-1])["error"]["code"] == record.error_code == "engine_error"
        else:
            assert (told.status, told.code) in FAILURES
        assert not await well_again(raw_home, raw_engine, ledger, streamed)


async def test_an_engine_that_answers_before_it_has_read_is_heard_or_told_of(
    raw_engine: RawEngine, raw_home: House
) -> None:
    ledger = Ledger(raw_home)
    long = [{"role": "user", "content": "x" * 4_000_000}]
    raw_engine.hasty = framed(b'{"message":"too much","code":400}', "Connection: close", status="400 Bad Request")
    told = await asked(raw_home, messages=long)
    record = await ledger.next()
    # A reset may overtake the answer on its way.
    assert (told.status, record.status) in {(400, "refused"), (502, "failed"), (503, "failed")}
    raw_engine.hasty = None
    assert not await well_again(raw_home, raw_engine, ledger, streamed=False)


# --- what is left on a connection


def second(text: str = "not yours") -> bytes:
    """An answer that nobody asked for."""
    message = b'[{"index":0,"message":{"content":"%b"},"finish_reason":"stop"}]' % text.encode()
    return framed(answer(choices=message))


TRAILING: dict[str, bytes] = {
    "a second answer": second(),
    "half of a second answer": second()[:-40],
    "the head of a second answer": second().split(b"\r\n\r\n")[0] + b"\r\n",
    "a line": b"\r\n",
    "garbage": b"not yours",
    "a body that says it is long": b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nnot yours",
}


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("streamed", [False, True])
async def test_what_follows_an_answer_is_no_part_of_any_other(
    raw_engine: RawEngine, raw_home: House, streamed: bool, later: bool
) -> None:
    ledger = Ledger(raw_home)
    for name, trailing in TRAILING.items():

        async def say(asking: Asking, trailing: bytes = trailing) -> None:
            if streamed:
                told = [b"data: " + event + b"\n\n" for event in [*chunks(asking, "mi", "ne"), b"[DONE]"]]
                said = chunked(*told)
            else:
                said = framed(whole_answer(asking, "mine"))
            if later:
                await asking.say(said)
                await until(lambda: raw_home.worker.limits.in_flight == 0)
                await asking.say(trailing)
                await asking.left()
            else:
                await asking.say(said + trailing)

        raw_engine.say = say
        told = await asked(raw_home, stream=streamed)
        assert told.status == 200, name
        assert b"not yours" not in told.body, name
        record = await ledger.next()
        assert (record.status, record.completion_tokens) == ("complete", 2), name
        if later:
            await until(lambda: raw_engine.asked[-1].writer.is_closing())
        assert not await well_again(raw_home, raw_engine, ledger, streamed), name


async def test_a_connection_whose_answer_is_done_but_not_at_its_end_is_not_used_again(
    raw_engine: RawEngine, raw_home: House
) -> None:
    async def say(asking: Asking) -> None:
        told = [b"data: " + event + b"\n\n" for event in [*chunks(asking, "hello"), b"[DONE]"]]
        await asking.say(chunked(*told, end=False))

    raw_engine.say, ledger = say, Ledger(raw_home)
    told = await asked(raw_home, stream=True)
    assert events_in(told.body)[-1] == b"[DONE]"
    assert (await ledger.next()).status == "complete"
    assert not await well_again(raw_home, raw_engine, ledger, streamed=True)
    assert [asking.number for asking in raw_engine.asked] == [1, 1]
