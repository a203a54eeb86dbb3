# SPDX-License-Identifier: Apache-2.0
"""What no client library writes, byte by byte: odd numbers, odd text, odd paths. None of it is a defect of ours."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import yarl

from tests.gateway.engine import FakeEngine
from tests.gateway.house import house, settings
from tests.gateway.logged import free_port, logger_of

CHAT = "/v1/chat/completions"
ASKED = '"model":"plain","messages":[{"role":"user","content":"x"}]'
BODIES = {
    '{%s,"temperature":-0}': 200, '{%s,"temperature":2e0}': 200, '{%s,"max_tokens":1e1}': 200,
    '{%s,"temperature":1e999}': 400, '{%s,"temperature":NaN}': 400, '{%s,"seed":1%s}': 400,
    '{%s,"seed":9223372036854775807}': 200, '{%s,"seed":9223372036854775808}': 400,
    '{%s,"seed":-9223372036854775808}': 200, '{%s,"seed":-9223372036854775809}': 400, '{%s,"top_p":5e-324}': 200,
    '{%s,"user":"\\u0000"}': 200, '{%s,"user":"\\ud83d\\ude00"}': 200, '{%s,"user":"\\ud800"}': 400,
    '{%s,"stop":"\\uffff\\u202e"}': 200, '{%s,"metadata":{"\\u0000":"\\u0000"},"store":true}': 200,
    '{%s,"model":"triage"}': 200, "\ufeff{%s}": 400, "{%s}\0": 400, "{%s,}": 400, '{%s,"logit_bias":{"":1e308}}': 400,
    '{%s,"tools":[{"type":"function","function":{"name":"\\u0000","parameters":{"a":1e308}}}]}': 200,
}  # fmt: skip
QUERIES = {
    "": 200, "&&&": 200, "limit=100": 200, "limit=%D9%A1": 400, "limit=1&limit=1": 400, "limit=1e1": 400, "=": 400,
    "order=asc%00": 400, "model=%00": 200, "after=chatcmpl-%00": 404, "after=%FF": 404, "metadata[%00]=%00": 200,
    "metadata[%FF]=%FE": 200, "metadata[]=": 200, "metadata[a'b%22c]=--": 200, "metadata[$[0]]=1": 200,
    "metadata%5Ba%5D=1": 200, "metadata[a][b]=1": 400, "metadata[%F0%9F%98%80]=x": 200,
}  # fmt: skip
PATHS = ("%00", "%FF", "chatcmpl-inv_%E2%82%AC", "a%2Fb", "%2E%2E", "%0D%0Ax-y:%20z", "chatcmpl-inv_" + "0" * 5000)


@pytest.fixture
async def http(engine: FakeEngine, tmp_path: Path) -> AsyncIterator[aiohttp.ClientSession]:
    configured = settings(tmp_path, engine.url, log_port=free_port())
    async with house(engine, configured) as home, logger_of(configured):
        headers = {"Authorization": f"Bearer {home.secret}", "Content-Type": "application/json"}
        async with aiohttp.ClientSession(home.url, headers=headers) as session:
            yield session


async def told(answer: aiohttp.ClientResponse) -> int:
    """The status of an answer in the one shape."""
    assert answer.headers["content-type"] == "application/json"
    document = await answer.json()
    if answer.status != 200:
        assert set(document["error"]) == {"message", "type", "param", "code"}
    return answer.status


async def test_odd_numbers_and_text_in_a_body(http: aiohttp.ClientSession) -> None:
    for body, status in BODIES.items():
        written = body.replace("%s", ASKED, 1).replace("%s", "0" * 400)
        assert await told(await http.post(CHAT, data=written.encode())) == status, body


async def test_odd_text_in_a_query(http: aiohttp.ClientSession) -> None:
    for query, status in QUERIES.items():
        assert await told(await http.get(yarl.URL(f"{CHAT}?{query}", encoded=True))) == status, query


async def test_odd_text_in_a_path(http: aiohttp.ClientSession) -> None:
    for path in PATHS:
        for method, route in (("GET", CHAT), ("DELETE", CHAT), ("GET", "/v1/models")):
            answer = await http.request(method, yarl.URL(f"{route}/{path}", encoded=True))
            assert await told(answer) == 404, (method, route, path)
            assert "x-y" not in answer.headers
