# SPDX-License-Identifier: Apache-2.0
import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract import errors
from contract.errors import MillraceError, OperatorError

ROOT = Path(__file__).parents[2]
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


def parsed() -> Iterator[tuple[Path, ast.Module]]:
    for package in ("contract", "gateway", "judge", "logger", "millrace", "trainer"):
        for file in (ROOT / package).rglob("*.py"):
            yield file, ast.parse(file.read_text())


def error_of(name: str, bases: dict[str, list[str]]) -> type[MillraceError] | None:
    """The error of `contract.errors` that a class of that name is, or is a kind of."""
    if name in bases:
        return next((found for base in bases[name] if (found := error_of(base, bases)) is not None), None)
    return next((kind for kind in CLASSES if kind.__name__ == name), None)


def test_every_code_that_is_raised_is_declared_at_its_error() -> None:
    modules = list(parsed())
    classes = [node for file, module in modules if file.name != "errors.py" for node in ast.walk(module)]
    bases = {
        node.name: [base.id for base in node.bases if isinstance(base, ast.Name)]
        for node in classes
        if isinstance(node, ast.ClassDef)
    }
    calls = [(file, node) for file, module in modules for node in ast.walk(module) if isinstance(node, ast.Call)]
    seen, undeclared = set(), []
    for file, call in calls:
        kind = error_of(call.func.id, bases) if isinstance(call.func, ast.Name) else None
        given = next((each.value for each in call.keywords if each.arg == "code"), None)
        if kind is None or given is None:
            continue
        parts = given.values if isinstance(given, ast.JoinedStr) else [given]
        if any(isinstance(part, ast.Constant) for part in parts):  # else it is handed on, from where it was written
            pattern = "".join(re.escape(str(part.value)) if isinstance(part, ast.Constant) else ".+" for part in parts)
            found = {one for one in (kind.default_code or "", *kind.codes) if re.fullmatch(pattern, one)}
            seen |= found
            undeclared += [] if found else [f"{file.name}:{call.lineno} {ast.unparse(given)}"]
    assert undeclared == []
    assert seen >= {code for kind in WIRE for code in kind.codes}, "a code is declared that nothing raises"


@pytest.mark.parametrize("kind", WIRE, ids=lambda kind: kind.__name__)
def test_every_body_has_the_four_fields(kind: type[MillraceError]) -> None:
    assert kind("m", param="p").body() == {
        "error": {"message": "m", "type": kind.type, "param": "p", "code": kind.default_code}
    }
    assert kind("m", code="c").body()["error"]["code"] == "c"
    assert 400 <= kind.status < 600
