# SPDX-License-Identifier: Apache-2.0
import asyncio
from typing import Any

import pytest

from contract.grading import GraderError, Sample, Score
from judge.graders import build_grader
from judge.graders.code_tests import CodeTests, CodeTestsSpec, code_in
from tests.judge.inmates import HASTY, SMALL, sandboxes

__all__ = ["sandboxes"]

ADD = [{"call": "add", "arguments": [1, 2], "expected": 3}, {"call": "add", "arguments": [2, 2], "expected": 4}]


def grade(answer: str, tests: Any, hasty: bool = False, **fields: str) -> Score | GraderError:
    grader = CodeTests("code", CodeTestsSpec(type="code_tests", **fields), HASTY if hasty else SMALL)
    (result,) = asyncio.run(grader.grade([Sample(id="a", output_text=answer, item={"reference_answer": tests})]))
    return result


def share(answer: str, tests: Any, hasty: bool = False) -> float:
    result = grade(answer, tests, hasty)
    assert isinstance(result, Score), result
    return result.value


def test_the_score_is_the_share_of_tests_that_pass() -> None:
    assert share("def add(a, b): return a + b", ADD) == 1.0
    assert share("def add(a, b): return a * b", ADD) == 0.5
    assert share("def add(a, b): return 0", ADD) == 0.0
    assert share("def add(a, b): return a +", ADD) == 0.0
    assert share("I cannot.", ADD) == 0.0


def test_the_last_fenced_block_is_the_code() -> None:
    first, second = "def add(a, b): return 0", "def add(a, b):\n    return a + b"
    text = f"First:\n```python\n{first}\n```\nBetter:\n```python\n{second}\n```\nDone."
    assert share(text, ADD) == 1.0
    assert code_in("no fence") == "no fence"


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("a, b = map(int, input().split())\nprint(a + b)", 1.0),
        ("import sys\nprint(sum(map(int, sys.stdin.read().split())), '   ')\nsys.exit(0)", 1.0),
        ("import sys\nn = sum(map(int, sys.stdin.buffer.read().split()))\nsys.stdout.buffer.write(b'%d' % n)", 1.0),
        ("print(sum(map(int, open(0).read().split())))", 1.0),
        ("if __name__ == '__main__': print(3)", 1.0),
        ("print(4)", 0.0),
        ("raise SystemExit(3)", 0.0),
    ],
)
def test_a_program_is_judged_by_what_it_prints(code: str, value: float) -> None:
    assert share(code, [{"stdin": "1 2\n", "expected": "3\n"}]) == value


@pytest.mark.parametrize(
    ("returned", "expected", "passes"),
    [
        ("(1, 2)", [1, 2], True),
        ("1.0", 1, True),
        ("True", 1, False),
        ("1", True, False),
        ("[True]", [1], False),
        ("{'a': [1]}", {"a": [1]}, True),
        ("None", None, True),
        ("'3'", 3, False),
        ("float('nan')", None, False),
        ("type('Equal', (int,), {'__eq__': lambda *_: True})(7)", 3, False),
        ("type('Equal', (), {'__eq__': lambda *_: True})()", 3, False),
    ],
)
def test_what_is_returned_is_compared_as_json_outside(returned: str, expected: Any, passes: bool) -> None:
    assert share(f"def f(): return {returned}", [{"call": "f", "expected": expected}]) == float(passes)


CHEATS = {
    "looks for what is expected": """
        import gc, os, sys
        frame, found = sys._getframe(), []
        while frame:
            found.append(repr(frame.f_locals) + repr(frame.f_globals))
            frame = frame.f_back
        found += [repr(each)[:9999] for each in gc.get_objects()]
        found += [" ".join(os.listdir("/tmp"))]
        wanted = int("".join(["87612340961", "5"]))
        return wanted if str(wanted) in "".join(found) else 0
        """,
    "patches what compares": """
        import builtins, json, sys
        json.dumps = lambda *_, **__: '{"end": "returned", "value": true}'
        for module in list(sys.modules.values()):
            for name in ("call", "called", "_passed", "isinstance"):
                if hasattr(module, name): setattr(module, name, lambda *_: True)
        return True
        """,
    "forges a result": """
        import os
        body = b'{"end":"returned","value":"passed"}'
        os.write(3, len(body).to_bytes(4, "big") + body)
        os._exit(0)
        """,
    "leaves early": "import os; os._exit(0)",
    "never ends": "while True: pass",
    "reads another test's": """
        import os
        if os.path.exists("/tmp/seen"): return 876123409615
        open("/tmp/seen", "w").close()
        """,
}


@pytest.mark.parametrize("name", CHEATS)
def test_an_answer_cannot_pass_by_other_means(name: str) -> None:
    code = f"def f(x):\n    if True:{CHEATS[name] if chr(10) in CHEATS[name] else ' ' + CHEATS[name]}"
    tests = [{"call": "f", "arguments": [n], "expected": 876123409615} for n in range(2)]
    assert share(code, tests, hasty=True) == 0.0


def test_a_score_says_what_the_first_failed_test_gave() -> None:
    result = grade("def add(a, b): return a * b", ADD)
    assert isinstance(result, Score) and result.reason == "test 0: it gave 2"
    result = grade("def other(): pass", ADD)
    assert isinstance(result, Score) and result.reason == "test 0: KeyError: 'add'"
    result = grade("def add(a, b):\n    while True: pass", ADD, hasty=True)
    assert isinstance(result, Score) and result.reason == "test 0: it took over 0.5 s"


@pytest.mark.parametrize(
    ("tests", "message"),
    [
        ([], "a list of 1 to 100 tests is wanted"),
        ("3", "a list of 1 to 100 tests is wanted"),
        (ADD * 51, "a list of 1 to 100 tests is wanted"),
        ([{"call": "f"}], "test 0: Object missing required field `expected`"),
        ([*ADD, {"stdin": 3, "expected": "3"}], "test 2: Expected `str`, got `int`"),
        ([{"call": "f", "expected": 1, "arguments": [], "more": 1}], "test 0: Object contains unknown field `more`"),
    ],
)
def test_tests_that_are_none_are_an_error_of_the_row(tests: Any, message: str) -> None:
    result = grade("def f(): return 1", tests)
    assert isinstance(result, GraderError) and result.kind == "sample_parse" and message in result.message


def test_a_row_without_tests_is_an_error_and_they_may_stand_in_another_field() -> None:
    grader = build_grader("code", {"type": "code_tests", "tests": "cases"})
    assert not grader.needs_reference and build_grader("code", {"type": "code_tests"}).needs_reference
    samples = [
        Sample(id="a", output_text="def add(a, b): return a + b", item={"cases": ADD}),
        Sample(id="b", output_text="def add(a, b): return a + b"),
    ]
    assert asyncio.run(grader.grade(samples)) == [
        Score(id="a", value=1.0), GraderError(id="b", kind="invalid_variable", message="item.cases is not there"),
    ]  # fmt: skip
