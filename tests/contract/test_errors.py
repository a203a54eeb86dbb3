# SPDX-License-Identifier: Apache-2.0
import inspect

import pytest

from contract import errors
from contract.errors import MillraceError, OperatorError

CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, MillraceError)]
WIRE = [kind for kind in CLASSES if kind is not MillraceError and not issubclass(kind, OperatorError)]


def tree() -> dict[str, list[str]]:
    """Class name -> the words behind it in the drawing at the top of the file, with its depth first."""
    drawn = {}
    for line in (errors.__doc__ or "").splitlines():
        name, _, rest = line.strip().lstrip("│├└─ ").partition(" ")
        if name in {kind.__name__ for kind in CLASSES}:
            drawn[name] = [str(len(line) - len(line.lstrip("│├└─ "))), *rest.split()]
    return drawn


def test_every_error_is_in_the_drawing_at_its_place() -> None:
    drawn = tree()
    assert set(drawn) == {kind.__name__ for kind in CLASSES}
    for kind in CLASSES:
        depth = len(kind.__mro__) - len(MillraceError.__mro__)
        assert int(drawn[kind.__name__][0]) == 4 * (depth + 1), kind.__name__


@pytest.mark.parametrize("kind", WIRE, ids=lambda kind: kind.__name__)
def test_the_drawing_says_status_type_and_code(kind: type[MillraceError]) -> None:
    _, status, type_, code, *_ = tree()[kind.__name__]
    assert (kind.status, kind.type) == (int(status), type_)
    assert code in (kind.default_code, "(given)")


def test_every_error_on_the_wire_has_a_code_of_its_own() -> None:
    codes = [kind.default_code for kind in WIRE]
    assert None not in codes and len(set(codes)) == len(codes)


@pytest.mark.parametrize("kind", WIRE, ids=lambda kind: kind.__name__)
def test_every_body_has_the_four_fields(kind: type[MillraceError]) -> None:
    assert kind("m", param="p").body() == {
        "error": {"message": "m", "type": kind.type, "param": "p", "code": kind.default_code}
    }
    assert kind("m", code="c").body()["error"]["code"] == "c"
    assert 400 <= kind.status < 600
