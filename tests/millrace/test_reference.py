# SPDX-License-Identifier: Apache-2.0
import re
from pathlib import Path
from typing import Any

import pytest

from contract.settings import parse_settings
from millrace.reference import pages

KAFKA = "log: {kafka: {bootstrap: [broker]}}"
FOLDER = Path(__file__).parents[2] / "docs" / "reference"


@pytest.mark.parametrize("name", sorted(pages()))
def test_the_reference_page_says_what_the_code_says(name: str) -> None:
    written = (FOLDER / name).read_text() if (FOLDER / name).exists() else ""
    assert written == pages()[name], "run `python -m millrace.reference`"


@pytest.mark.parametrize(
    "row",
    [
        "| `gateway.body_timeout` | duration | `60s` |",
        "| `gateway.total_timeout` | duration | `10m` |",
        "| `judge.live[].max_wait` | duration | `24h` |",
        "| `log.store.batch_delay` | duration | `0.5s` |",
        "| `loops.NAME.trigger.every` | duration | `None` |",
        "| `gateway.max_body` | size | `10MiB` |",
        "| `engines[].launch.kv_cache` | size | `2GiB` |",
        "| `models.NAME.price.cached_input` | USD | `None` |",
        "| `trainer.price_per_hour` | USD | `0` |",
    ],
)
def test_what_has_a_unit_is_shown_as_people_write_it(row: str) -> None:
    assert row in pages()["settings.md"]


def test_every_default_can_be_written_as_it_is_shown() -> None:
    shown = dict(
        re.findall(r"^\| `([a-z_.]+)` \| (?:duration|size) \| `([\w.]+)` \|", pages()["settings.md"], re.MULTILINE)
    )
    shown = {name: text for name, text in shown.items() if text != "None"}  # which is to leave it out
    assert len(shown) > 10
    for name, text in shown.items():
        section: Any = parse_settings(KAFKA, flags={name: text})
        default: Any = parse_settings(KAFKA)
        for part in name.split("."):
            section, default = getattr(section, part), getattr(default, part)
        assert section == default, name
