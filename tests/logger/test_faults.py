# SPDX-License-Identifier: Apache-2.0
import os
import re
import signal
from pathlib import Path
from typing import get_args

import pytest

from logger import faults
from logger.faults import armed

ROOT = Path(__file__).parents[2]
POINTS = set(get_args(faults.Point))


def test_every_point_is_passed_somewhere_and_belongs_to_a_process_that_is_killed_there() -> None:
    passed = re.findall(r'\breach\("(\w+)"\)', "".join(path.read_text() for path in (ROOT / "logger").glob("*.py")))
    assert set(passed) == POINTS == {*faults.WRITER, *faults.SHIPPER, *faults.INGESTER}


def test_every_point_is_described() -> None:
    assert re.findall(r"^(\w+) {2,}\w", str(faults.__doc__), re.MULTILINE) == ["point", *get_args(faults.Point)]


def test_nothing_is_armed_outside_of_a_test_of_crashes() -> None:
    assert (faults.ARMED, faults.reach, armed(None)) == (False, faults.nowhere, None)


@pytest.mark.parametrize("order", ["", "after_lunch:1", "after_ack", "after_ack:0", "after_ack:-1", "after_ack:x"])
def test_an_order_that_is_none_is_refused(order: str) -> None:
    with pytest.raises(ValueError, match=f"MILLRACE_FAULT={order}: no point with a count"):
        armed(order)


def test_a_process_dies_at_the_passing_that_was_asked_for_and_at_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    died: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *how: died.append(how))
    pass_by = armed("after_ack:2")
    assert pass_by is not None
    pass_by("after_ack")
    pass_by("after_save")
    assert died == []
    pass_by("after_ack")
    assert died == [(os.getpid(), signal.SIGKILL)]
