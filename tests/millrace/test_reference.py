# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from millrace.reference import pages

FOLDER = Path(__file__).parents[2] / "docs" / "reference"


@pytest.mark.parametrize("name", sorted(pages()))
def test_the_reference_page_says_what_the_code_says(name: str) -> None:
    written = (FOLDER / name).read_text() if (FOLDER / name).exists() else ""
    assert written == pages()[name], "run `python -m millrace.reference`"
