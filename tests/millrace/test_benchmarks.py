# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from bench.gateway.report import DOCUMENTS, PARTS, filled


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_the_figures_in_a_document_are_those_of_the_results(document: Path) -> None:
    text = document.read_text()
    assert filled(text) == text, "run `python -m bench.gateway.report`"


def test_every_measured_part_stands_in_a_document() -> None:
    texts = "".join(document.read_text() for document in DOCUMENTS)
    assert [name for name in PARTS if f"<!-- measured: {name} -->" not in texts] == []
