# SPDX-License-Identifier: Apache-2.0
"""Every route: what it answers, and the one shape of every error."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import httpx2
import openai
import pytest

from gateway.keys import list_keys, revoke_key
from logger.spool import DROPPED
from tests.gateway.engine import FakeEngine
from tests.gateway.house import ASK, House, house, make_key, settings, until

STORED = "/v1/chat/completions/chatcmpl-inv_none"
ROUTES = [
    ("POST", "/v1/chat/completions"), ("GET", "/v1/chat/completions"), ("GET", STORED), ("POST", STORED),
    ("DELETE", STORED), ("GET", f"{STORED}/messages"), ("POST", "/v1/completions"), ("POST", "/v1/embeddings"),
    ("POST", "/v1/responses"), ("GET", "/v1/models"),
    ("POST", "/v1/fine_tuning/alpha/graders/run"), ("POST", "/v1/fine_tuning/alpha/graders/validate"),
    ("GET", "/v1/models/plain"), ("POST", "/v1/feedback"), ("GET", "/health"), ("GET", "/ready"), ("GET", "/metrics"),
    ("GET", "/version"), ("GET", "/openapi.json"),
]  # fmt: skip
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
DEEP = b"[" * 260 + b"]" * 260
TOO_DEEP = (
    b'{"model":' + DEEP + b"}", b'{"metric":' + DEEP + b"}",
    b'{"model":"plain","tools":[{"type":"function","function":{"name":"f","parameters":{"a":' + DEEP + b"}}}]}",
)  # fmt: skip
ENGINE_ROUTES = (
    "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/adapters", "/invocations", "/inference/v1/generate",
    "/tokenize", "/detokenize", "/pause", "/sleep", "/collective_rpc", "/server_info", "/load", "/scale_elastic_ep",
    "/docs", "/redoc", "/v1/models/", "/v1//models", "/", "/v1/chat/completions/",
)  # fmt: skip


@pytest.fixture
async def http(home: House) -> AsyncIterator[httpx2.AsyncClient]:
    headers = {"Authorization": f"Bearer {home.secret}"}
    async with httpx2.AsyncClient(base_url=home.url, headers=headers) as client:
        yield client


def check_error(response: httpx2.Response, status: int) -> dict[str, str | None]:
    """Asserts the canonical shape; the error."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    document = response.json()
    assert list(document) == ["error"]
    error: dict[str, str | None] = document["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert all(error[name] for name in ("message", "type", "code"))
    return error


async def test_every_wrong_method_is_405_in_the_openai_shape(http: httpx2.AsyncClient) -> None:
    for path, method in itertools.product({path for _, path in ROUTES}, METHODS):
        if (method, path) not in ROUTES:
            response = await http.request(method, path)
            assert check_error(response, 405)["code"] == "method_not_allowed"
            assert response.headers["allow"] == ", ".join(sorted(right for right, at in ROUTES if at == path))


async def test_everything_else_is_404_in_the_openai_shape(http: httpx2.AsyncClient, home: House) -> None:
    for path, method in itertools.product(ENGINE_ROUTES, ("GET", "POST")):
        if (path, method) == ("/v1/models/", "POST"):
            continue  # the route of a model with an empty name
        check_error(await http.request(method, path), 404)
    assert home.engine.loads == []


async def test_every_route_of_the_api_wants_a_key(http: httpx2.AsyncClient) -> None:
    for method, path in ROUTES:
        if path.startswith("/v1/"):
            for header in ("", "Bearer mr-nobody", "Basic x"):
                response = await http.request(method, path, headers={"Authorization": header})
                assert check_error(response, 401)["code"] == "invalid_api_key"
                assert response.headers["www-authenticate"] == "Bearer"


async def test_a_body_that_is_no_json_is_400_on_every_post_route(http: httpx2.AsyncClient) -> None:
    for method, path in ROUTES:
        if method == "POST":
            for body in (b"", b"hello", b"[1]", b"\xff\xfe", *TOO_DEEP):
                assert check_error(await http.post(path, content=body), 400)["code"] == "invalid_json"


async def test_a_defect_of_ours_is_500_in_the_openai_shape(
    http: httpx2.AsyncClient, home: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(home.worker, "routes", None)
    chat = {"model": "plain", "messages": ASK}
    for response in (await http.get("/v1/models"), await http.post("/v1/chat/completions", json=chat)):
        error = check_error(response, 500)
        assert (error["code"], "NoneType" in str(error["message"])) == ("internal_error", False)
    monkeypatch.undo()
    assert (home.final().status, home.final().http_status) == ("failed", 500)


async def test_every_answer_has_its_own_request_id(http: httpx2.AsyncClient) -> None:
    ids = [(await http.request(method, path)).headers["x-request-id"] for method, path in ROUTES]
    assert len(set(ids)) == len(ROUTES)


async def test_the_models_are_public_names_and_nothing_else(home: House) -> None:
    async with home.client() as client:
        listed = await client.models.list()
        one = await client.models.retrieve("triage")
        with pytest.raises(openai.NotFoundError) as caught:
            await client.models.retrieve("base")
    assert [model.id for model in listed.data] == ["plain", "triage"]
    assert (one.id, one.object, one.owned_by) == ("triage", "model", "millrace")
    assert caught.value.code == "model_not_found"
    assert "secret" not in listed.model_dump_json()


async def test_feedback_is_in_the_spool_when_it_is_answered(http: httpx2.AsyncClient, home: House) -> None:
    async with home.client() as client:
        answer = await client.chat.completions.create(model="plain", messages=ASK)
    given = {"invocation": answer.id, "metric": "label", "value": "positive", "choice": 0}
    told = (await http.post("/v1/feedback", json=given)).json()
    (record,) = home.feedback()
    assert (record.id, f"chatcmpl-{record.invocation}") == (told["id"], answer.id)
    assert (json.loads(record.value), record.metric, record.choice) == ("positive", "label", 0)
    check_error(await http.post("/v1/feedback", json={**given, "invocation": "inv_made_up"}), 404)
    check_error(await http.post("/v1/feedback", json={**given, "value": "meh"}), 400)
    assert len(home.feedback()) == 1


@pytest.mark.parametrize(
    ("value", "param", "named"),
    [
        (b"NaN", None, "JSON"), (b"Infinity", None, "JSON"), (b"1e999", None, ""), (b"-1e999", None, ""),
        (b'"4"', "value", "the metric 'stars' is a number"), (b"true", "value", "the metric 'stars' is a number"),
    ],
)  # fmt: skip
async def test_a_value_that_is_no_number_of_this_world_is_refused(
    http: httpx2.AsyncClient, home: House, value: bytes, param: str | None, named: str
) -> None:
    body = b'{"conversation": "c", "metric": "stars", "value": %b}' % value
    answer = await http.post("/v1/feedback", content=body, headers={"content-type": "application/json"})
    check_error(answer, 400)
    assert named in answer.json()["error"]["message"] and answer.json()["error"]["param"] in (param, "value")
    assert home.feedback() == []


async def test_feedback_that_the_spool_drops_is_not_answered_as_kept(
    http: httpx2.AsyncClient, home: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(home.worker.spool, "append", lambda record: DROPPED)
    answer = await http.post("/v1/feedback", json={"conversation": "c", "metric": "stars", "value": 1})
    check_error(answer, 503)
    assert answer.json()["error"]["code"] == "storage_full"


async def test_opinions_of_different_authors_on_one_answer_are_all_kept(http: httpx2.AsyncClient, home: House) -> None:
    async with home.client() as client:
        made = await client.chat.completions.create(model="plain", messages=ASK)
    for author, stars in (("ann", 5), ("bob", 1), ("ann", 4), (None, 2.5)):
        given = {"invocation": made.id, "metric": "stars", "value": stars}
        told = await http.post("/v1/feedback", json=given if author is None else {**given, "author": author})
        assert told.status_code == 200
    kept = [(each.author, json.loads(each.value), each.invocation) for each in home.feedback()]
    own = made.id.removeprefix("chatcmpl-")
    assert kept == [("ann", 5, own), ("bob", 1, own), ("ann", 4, own), (None, 2.5, own)]
    assert len({each.id for each in home.feedback()}) == 4


async def test_another_projects_answers_take_no_feedback(home: House) -> None:
    async with home.client() as client:
        answer = await client.chat.completions.create(model="plain", messages=ASK)
    stranger = make_key(home.settings, project="stranger")
    given = {"invocation": answer.id, "metric": "label", "value": "positive"}
    headers = {"Authorization": f"Bearer {stranger}"}
    async with httpx2.AsyncClient(base_url=home.url, headers=headers) as http:
        await until_known(http)
        check_error(await http.post("/v1/feedback", json=given), 404)


async def until_known(http: httpx2.AsyncClient) -> None:
    while (await http.get("/v1/models")).status_code == 401:
        pass  # the test's own timeout bounds this


async def test_a_revoked_key_stops_working_on_a_running_gateway(http: httpx2.AsyncClient, home: House) -> None:
    assert (await http.get("/v1/models")).status_code == 200
    with home.worker.database.begin() as connection:
        revoke_key(connection, list_keys(connection)[0].id)
    while (response := await http.get("/v1/models")).status_code == 200:
        pass  # the test's own timeout bounds this
    assert "revoked" in str(check_error(response, 401)["message"])


async def test_ready_says_why_not(http: httpx2.AsyncClient, home: House) -> None:
    response = await http.get("/ready")
    assert (response.status_code, response.json()) == (200, {"ready": True, "reasons": []})
    await home.engine.stop()
    await until(lambda: home.worker.unready())
    home.worker.drain()
    response = await http.get("/ready")
    document = response.json()
    assert (response.status_code, document["ready"]) == (503, False)
    assert document["reasons"] == ["this server is shutting down", "no engine is ready for any model"]
    assert document["error"]["code"] == "not_ready"


async def test_a_database_that_cannot_be_read_shows_on_ready(home: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.worker.FEED_STALE_SECONDS", -1.0)
    assert home.worker.unready() == ["the control database cannot be read"]


async def test_health_version_and_metrics_need_no_key(home: House) -> None:
    async with httpx2.AsyncClient(base_url=home.url) as http:
        assert (await http.get("/health")).json() == {"status": "ok"}
        assert (await http.get("/version")).json()["version"]
        page = await http.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "millrace_inflight_requests 0.0" in page.text
    assert 'millrace_adapter_info{name="plain",version="base"} 1.0' in page.text


async def test_no_secret_is_on_any_page_or_in_any_log_line(
    http: httpx2.AsyncClient, home: House, caplog: pytest.LogCaptureFixture
) -> None:
    async with home.client() as client:
        await client.chat.completions.create(model="plain", messages=[{"role": "user", "content": "canary-prompt"}])
        with pytest.raises(openai.BadRequestError):
            await client.chat.completions.create(model="plain", messages=ASK, temperature=9)
    pages = [(await http.get(path)).text for path in ("/metrics", "/ready", "/version", "/v1/models")]
    logged = "\n".join(f"{record.name} {record.getMessage()}" for record in caplog.records if record.name != "openai")
    for text in (*pages, logged):
        assert home.secret not in text
        assert "canary-prompt" not in text


async def test_a_client_that_hangs_up_in_its_body_leaves_an_aborted_record(home: House) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(home.url.rsplit(":", 1)[1]))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {home.secret}\r\n"
    writer.write(f"{head}Content-Length: 100\r\n\r\n{{".encode())
    await writer.drain()
    await until(lambda: home.worker.limits.in_flight == 1)
    writer.close()
    await writer.wait_closed()
    assert reader is not None
    await until(lambda: home.invocations())
    assert (home.final().status, home.final().attempts, home.engine.chats()) == ("aborted", 0, [])


async def test_a_chunked_body_is_bounded_while_it_is_read(home: House) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(200):
            yield b" " * 100_000

    async with aiohttp.ClientSession() as session:
        headers = {"Authorization": f"Bearer {home.secret}"}
        async with session.post(f"{home.url}/v1/chat/completions", data=endless(), headers=headers) as response:
            assert response.status == 413
            assert (await response.json())["error"]["code"] == "payload_too_large"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/feedback"])
async def test_a_body_that_does_not_come_is_408_and_gives_its_place_back(
    engine: FakeEngine, tmp_path: Path, path: str
) -> None:
    configured = settings(tmp_path, engine.url, gateway="max_concurrent: 1, body_timeout: 0.5s")
    async with house(engine, configured) as home, httpx2.AsyncClient(base_url=home.url) as http:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(home.url.rsplit(":", 1)[1]))
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {home.secret}\r\n"
        writer.write(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        await until(lambda: home.worker.limits.in_flight == 1)
        answer = (await reader.read()).decode()  # to the end: the connection is closed
        assert answer.startswith("HTTP/1.1 408")
        assert json.loads(answer.split("\r\n\r\n")[1])["error"]["code"] == "body_timeout"
        headers = {"Authorization": f"Bearer {home.secret}"}
        check_error(await http.post(path, content=b"x", headers=headers), 400)
        writer.close()
        await writer.wait_closed()
