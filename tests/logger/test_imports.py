# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path
from typing import Any

import pytest

from logger.imports import BadLine, Chats, parse_line, read_records

CHATS = Chats("default", b"s" * 32, "plain", 5)
RECORD = {
    "kind": "invocation", "id": "inv_1", "time": 5, "project": "default", "key": "k",
    "endpoint": "/v1/chat/completions",
    "status": "complete", "alias": "plain",
}  # fmt: skip


def line(**fields: Any) -> bytes:
    return json.dumps(RECORD | fields).encode()


def test_an_exported_record_is_one() -> None:
    assert parse_line(line(), CHATS).id == "inv_1"


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"time": -5}, "time: -5"), ({"time": 10**25}, "time: 1000000"), ({"time": 2**63}, "time: 9223372036854775808"),
        ({"cost": -1}, "cost: -1"), ({"prompt_tokens": -1}, "prompt_tokens: -1"), ({"id": ""}, "id: ''"),
        ({"id": "inv\n1"}, "id: "), ({"project": " "}, "project: ' '"), ({"status": "open"}, "status: 'open'"),
        ({"colour": 1}, "colour: 1"), ({"kind": "thing"}, "kind: 'thing'"),
    ],
)  # fmt: skip
def test_a_record_that_cannot_be_true_is_refused_by_field_and_value(fields: dict[str, Any], part: str) -> None:
    with pytest.raises(BadLine) as caught:
        parse_line(line(**fields), CHATS)
    assert part in caught.value.message


def test_a_file_is_named_with_its_line_or_why_it_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_bytes(line() + b"\n\n" + line(time=-5))
    with pytest.raises(BadLine, match=r"log\.jsonl line 3: time: -5"):
        list(read_records(tmp_path / "log.jsonl", CHATS))
    with pytest.raises(BadLine, match="nowhere: cannot be read: No such file"):
        list(read_records(tmp_path / "nowhere", CHATS))
    with pytest.raises(BadLine, match="cannot be read: Is a directory"):
        list(read_records(tmp_path, CHATS))
