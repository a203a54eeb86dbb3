# SPDX-License-Identifier: Apache-2.0
from tests.gateway.house import ASK, House


async def test_a_plain_answer_and_its_record_agree(home: House) -> None:
    async with home.client() as client:
        raw = await client.chat.completions.with_raw_response.create(
            model="plain", messages=ASK, temperature=0.5, user="u1", metadata={"conversation": "c1"}
        )
    answer, record = raw.parse(), home.final()
    assert answer.model == "plain"
    assert answer.choices[0].message.content == "one two three"
    assert raw.headers["x-request-id"] == record.id
    assert answer.id == f"chatcmpl-{record.id}"


async def test_a_stream_and_its_record_agree(home: House) -> None:
    async with home.client() as client:
        stream = await client.chat.completions.create(model="plain", messages=ASK, stream=True)
        chunks = [chunk async for chunk in stream]
    print(chunks, home.invocations())
