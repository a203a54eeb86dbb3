# SPDX-License-Identifier: Apache-2.0
"""Stored completions as the official client sees them, over the real logger."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx2
import openai
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion

from contract.errors import InvalidRequest
from contract.records import Amendment, Erasure
from gateway import stored
from gateway.checks import shown
from gateway.queries import Page, page_of
from tests.gateway import engine as scripted
from tests.gateway.engine import FakeEngine
from tests.gateway.house import ASK, House, house, make_key, official_client, settings
from tests.gateway.logged import free_port, logger_of

SHOWN = 60.0
"""Seconds after which a completion should really be there: the machine may be busy."""


@pytest.fixture
async def logged(engine: FakeEngine, tmp_path: Path) -> AsyncIterator[House]:
    configured = settings(tmp_path, engine.url, log_port=free_port())
    async with house(engine, configured) as home, logger_of(configured, batch_delay=0.02):
        yield home


@pytest.fixture
async def client(logged: House) -> AsyncIterator[AsyncOpenAI]:
    async with logged.client() as opened:
        yield opened


async def ask(client: AsyncOpenAI, **fields: Any) -> ChatCompletion:
    """A completion that was asked to be stored, once the log has it."""
    made: ChatCompletion = await client.chat.completions.create(
        **{"model": "plain", "messages": ASK, "store": True, **fields}
    )
    await there(client, made.id)
    return made


async def there(client: AsyncOpenAI, identifier: str) -> ChatCompletion:
    deadline = time.monotonic() + SHOWN
    while True:
        try:
            return await client.chat.completions.retrieve(identifier)
        except openai.NotFoundError:
            assert time.monotonic() < deadline, f"{identifier} is not there after {SHOWN} s"
            await asyncio.sleep(0.02)


async def test_a_completion_is_there_with_the_usual_settings_of_the_log(engine: FakeEngine, tmp_path: Path) -> None:
    configured = settings(tmp_path, engine.url, log_port=free_port())
    async with house(engine, configured) as home, logger_of(configured), home.client() as client:
        made = await ask(client)
        assert (await client.chat.completions.list()).data[0].id == made.id


async def test_a_stored_completion_is_what_the_client_got(client: AsyncOpenAI, engine: FakeEngine) -> None:
    engine.script.n = 2
    made = await ask(client, n=2, metadata={"conversation": "c", "k": "v"})
    found = await client.chat.completions.retrieve(made.id)
    assert found.metadata == {"conversation": "c", "k": "v"}
    want, got = made.model_dump(exclude_unset=True), found.model_dump(exclude_unset=True)
    for choice in want["choices"]:
        choice.pop("token_ids")
    assert {name: got[name] for name in ("id", "object", "created", "model", "choices")} == {
        name: want[name] for name in ("id", "object", "created", "model", "choices")
    }
    assert made.usage is not None and found.usage is not None
    assert (found.usage.prompt_tokens, found.usage.completion_tokens, found.usage.total_tokens) == (
        made.usage.prompt_tokens, made.usage.completion_tokens, made.usage.total_tokens,
    )  # fmt: skip
    assert made.usage.prompt_tokens_details is not None and found.usage.prompt_tokens_details is not None
    assert found.usage.prompt_tokens_details.cached_tokens == made.usage.prompt_tokens_details.cached_tokens == 2


async def test_a_stored_stream_is_its_joined_answer(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model="triage", messages=ASK, store=True, stream=True)
    chunks = [chunk async for chunk in stream]
    found = await there(client, chunks[0].id)
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert (found.choices[0].message.content, found.choices[0].finish_reason) == (said, "stop")
    assert (found.model, found.created) == (chunks[0].model, chunks[0].created)


async def test_a_response_is_not_among_them(client: AsyncOpenAI) -> None:
    response = await client.responses.create(model="plain", input="x", store=True)
    assert response.store is False
    made = await ask(client)  # what went into the log after it
    assert [each.id async for each in client.chat.completions.list()] == [made.id]
    for identifier in (response.id, "chatcmpl-" + response.id.removeprefix("resp_")):
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.retrieve(identifier)


async def test_the_list_is_paged_and_filtered(client: AsyncOpenAI) -> None:
    await client.chat.completions.create(model="plain", messages=ASK, metadata={"team": "a"})
    made = [await ask(client, metadata={"team": "a b/[c]", "n": str(n)}) for n in range(3)]
    other = await ask(client, model="triage")
    ids = [each.id for each in made]
    page = await client.chat.completions.list(limit=3)
    assert ([each.id for each in page.data], page.has_more) == (ids, True)
    assert [each.id async for each in page] == [*ids, other.id]
    backwards = await client.chat.completions.list(order="desc", after=ids[2])
    assert [each.id for each in backwards.data] == [ids[1], ids[0]]
    assert [each.id async for each in client.chat.completions.list(model="triage")] == [other.id]
    teams = await client.chat.completions.list(metadata={"team": "a b/[c]", "n": "1"})
    assert [each.id for each in teams.data] == [ids[1]]
    raw = (await client.chat.completions.with_raw_response.list(limit=2)).http_response.json()
    assert {name: raw[name] for name in ("object", "first_id", "last_id", "has_more")} == {
        "object": "list", "first_id": ids[0], "last_id": ids[1], "has_more": True,
    }  # fmt: skip
    empty = (await client.chat.completions.with_raw_response.list(model="none")).http_response.json()
    assert empty == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


async def test_metadata_of_any_text_is_kept_and_found(client: AsyncOpenAI) -> None:
    odd = {"\0": "\0", "😀": "é", "": "x", "$[*]": "'; --", "0": "zero", 'a"b\\': "/~"}
    made = await ask(client, metadata=odd)
    assert (await client.chat.completions.retrieve(made.id)).metadata == odd
    for key, value in odd.items():
        found = await client.get(f"/chat/completions?{urlencode({f'metadata[{key}]': value})}", cast_to=httpx2.Response)
        assert [each["id"] for each in found.json()["data"]] == [made.id], key


async def test_its_messages_are_paged_with_ids_of_their_own(client: AsyncOpenAI) -> None:
    parts = [{"type": "text", "text": "Is it good?"}]
    asked: Any = [{"role": "system", "content": "Be short."}, {"role": "user", "content": parts}, *ASK]
    made = await ask(client, messages=asked)
    page = await client.chat.completions.messages.list(made.id, limit=2)
    assert [(each.id, each.role, each.content, each.content_parts is not None) for each in page.data] == [
        (f"{made.id}-0", "system", "Be short.", False),
        (f"{made.id}-1", "user", None, True),
    ]
    assert page.has_more
    assert [each.id async for each in page] == [f"{made.id}-{n}" for n in range(3)]
    last = await client.chat.completions.messages.list(made.id, order="desc", after=f"{made.id}-2", limit=1)
    assert [each.id for each in last.data] == [f"{made.id}-1"]
    for listed in (client.chat.completions.messages.list(made.id, after="x"), client.chat.completions.list(after="x")):
        with pytest.raises(openai.NotFoundError) as caught:
            await listed
        assert caught.value.param == "after"


async def test_its_metadata_can_be_replaced_and_nothing_else(client: AsyncOpenAI, logged: House) -> None:
    made = await ask(client, metadata={"k": "old", "gone": "x"})
    told = await client.chat.completions.update(made.id, metadata={"k": "new"})
    assert told.metadata == (await client.chat.completions.retrieve(made.id)).metadata == {"k": "new"}
    assert [each.id async for each in client.chat.completions.list(metadata={"k": "new"})] == [made.id]
    assert (await client.chat.completions.update(made.id, metadata=None)).metadata == {}
    assert (await client.chat.completions.retrieve(made.id)).metadata == {}
    for body, param in (({"model": "x"}, "model"), ({}, "metadata"), ({"metadata": {"k": 1}}, "metadata.k")):
        with pytest.raises(openai.BadRequestError) as caught:
            await client.post(f"/chat/completions/{made.id}", body=body, cast_to=ChatCompletion)
        assert caught.value.param == param
    assert sum(isinstance(record, Amendment) for record in logged.records()) == 2


async def test_what_is_deleted_is_gone_when_it_is_answered_and_again_does_no_harm(
    client: AsyncOpenAI, logged: House
) -> None:
    made, kept = await ask(client), await ask(client)
    for _ in range(2):
        told = await client.chat.completions.delete(made.id)
        assert (told.id, told.object, told.deleted) == (made.id, "chat.completion.deleted", True)
        assert [each.id async for each in client.chat.completions.list()] == [kept.id]
        for gone in (client.chat.completions.retrieve, client.chat.completions.messages.list):
            with pytest.raises(openai.NotFoundError):
                await gone(made.id)
    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.update(made.id, metadata={})
    erased = [record.invocation for record in logged.records() if isinstance(record, Erasure)]
    assert [f"chatcmpl-{invocation}" for invocation in erased] == [made.id]


async def test_another_projects_completion_is_answered_as_one_that_never_was(
    client: AsyncOpenAI, logged: House
) -> None:
    made = await ask(client)
    unstored = await client.chat.completions.create(model="plain", messages=ASK)
    await ask(client)  # so that the log has what came before it
    async with official_client(logged.url, api_key=make_key(logged.settings, "stranger")) as stranger:
        while True:
            try:
                assert (await stranger.chat.completions.list()).data == []
                break
            except openai.AuthenticationError:
                pass  # the key is on its way; the test's own timeout bounds this
        said = [await refusals(stranger, made.id), await refusals(stranger, "chatcmpl-inv_none")]
        said += [await refusals(client, unstored.id), await refusals(client, made.id[9:])]
    shapes = {tuple(re.sub(r"'.*'", "…", text) for text in texts) for texts in said}
    assert shapes == {("there is no stored chat completion …",) * 4}
    assert (await client.chat.completions.retrieve(made.id)).id == made.id


async def refusals(client: AsyncOpenAI, identifier: str) -> list[str]:
    chats, found = client.chat.completions, []
    for attempt in (
        chats.retrieve(identifier), chats.update(identifier, metadata={}), chats.delete(identifier),
        chats.messages.list(identifier),
    ):  # fmt: skip
        with pytest.raises(openai.NotFoundError) as caught:
            await attempt
        body: Any = caught.value.body
        found.append(str(body["message"]))
    return found


async def test_where_no_payload_is_kept_nothing_is_stored(engine: FakeEngine, tmp_path: Path) -> None:
    configured = settings(tmp_path, engine.url, policy="payload: off")
    async with house(engine, configured) as home, home.client() as client:
        await client.chat.completions.create(model="plain", messages=ASK, store=True)
        assert home.final().stored is None


async def test_what_was_not_asked_for_is_not_stored(home: House) -> None:
    async with home.client() as client:
        await client.chat.completions.create(model="plain", messages=ASK)
    assert home.final().stored is None


@pytest.mark.parametrize("created", [None, 10**23, -1, 1.5, "now", True])
async def test_without_an_engines_time_it_is_that_of_the_request(
    home: House, created: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = scripted.frame
    monkeypatch.setattr(scripted, "frame", lambda *given: {**frame(*given), "created": created})
    async with home.client() as client:
        await client.chat.completions.create(model="plain", messages=ASK, store=True)
    record = home.final()
    assert json.loads(record.stored or "") == {"model": "plain", "created": record.time // 10**9}


async def test_what_was_not_completed_is_not_stored(home: House, engine: FakeEngine) -> None:
    engine.script.error_after = 2
    async with home.client() as client:
        with pytest.raises(openai.APIError):
            stream = await client.chat.completions.create(model="plain", messages=ASK, store=True, stream=True)
            [chunk async for chunk in stream]
    assert (home.final().status, home.final().choices is None, home.final().stored) == ("failed", False, None)


async def test_without_the_logger_these_routes_alone_are_answered_503(home: House) -> None:
    async with home.client() as client:
        made = await client.chat.completions.create(model="plain", messages=ASK, store=True)
    headers = {"Authorization": f"Bearer {home.secret}"}
    route = "/v1/chat/completions"
    async with httpx2.AsyncClient(base_url=home.url, headers=headers) as http:
        for answer in (
            await http.get(route), await http.get(f"{route}/{made.id}"), await http.delete(f"{route}/{made.id}"),
            await http.post(f"{route}/{made.id}", json={"metadata": {}}),
            await http.get(f"{route}/{made.id}/messages"),
        ):  # fmt: skip
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            error = answer.json()["error"]
            assert (error["code"], "127.0.0.1" in error["message"]) == ("logger_unavailable", False)
        assert (await http.get(f"{route}/chatcmpl-inv_none")).status_code == 404


async def test_a_change_that_the_log_does_not_show_in_time_is_answered(
    client: AsyncOpenAI, logged: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await ask(client)
    monkeypatch.setattr(stored, "SHOWN_SECONDS", 0.0)
    assert (await client.chat.completions.delete(made.id)).deleted


async def test_a_change_without_room_in_the_spool_is_503(
    client: AsyncOpenAI, logged: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await ask(client)
    monkeypatch.setattr(logged.worker.spool, "append", lambda record: stored.DROPPED)
    with pytest.raises(openai.InternalServerError) as caught:
        await client.chat.completions.delete(made.id)
    assert (caught.value.status_code, caught.value.code) == (503, "storage_full")


def test_a_query_is_read_as_the_client_writes_it() -> None:
    pairs = [("limit", "7"), ("order", "desc"), ("metadata[a]", "1"), ("metadata[b]]", ""), ("model", "m")]
    assert page_of(pairs, filtered=True) == Page(
        limit=7, descending=True, model="m", metadata={"a": "1", "b]": ""}
    )  # fmt: skip
    assert page_of([]) == Page(None, 20, False, None, None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("limit", value) for value in ("0", "101", "-1", "1.0", "+1", " 1", "x", "", "9" * 40, "²", "٣")),
        ("order", "up"), ("after", ""), ("after", "x" * 513), ("model", ""), ("model", "x" * 257),
    ],
)  # fmt: skip
def test_a_bad_parameter_is_named_with_its_value(name: str, value: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        page_of([(name, value)], filtered=True)
    assert caught.value.param == name
    assert shown(value)[:20] in str(caught.value)


@pytest.mark.parametrize(
    ("pairs", "param"),
    [
        ([("limit", "1"), ("limit", "1")], "limit"),
        ([("metadata[a]", "1"), ("metadata[a]", "2")], "metadata[a]"),
        ([("metadata[a]", "x" * 513)], "metadata.a"),
        ([("metadata", "x")], "metadata"),
        ([("metadata[a][b]", "x")], "metadata[a][b]"),
        ([("colour", "red")], "colour"),
    ],
)
def test_a_parameter_that_is_unknown_or_given_twice_is_refused(pairs: list[tuple[str, str]], param: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(param)) as caught:
        page_of(pairs, filtered=True)
    assert caught.value.param == param


def test_a_list_that_is_not_filtered_takes_no_filter() -> None:
    for name in ("model", "metadata[a]"):
        with pytest.raises(InvalidRequest, match=re.escape(name)):
            page_of([(name, "x")])
