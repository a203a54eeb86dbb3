# SPDX-License-Identifier: Apache-2.0
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judge.formula import MAX_DEPTH, FormulaError, parse


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1.0),
        (" .5 + 2e-1 ", 0.7),
        ("2 + 3 * 4", 14.0),
        ("(2 + 3) * 4", 20.0),
        ("10 - 4 - 3", 3.0),
        ("8 / 4 / 2", 1.0),
        ("2 ^ 3 ^ 2", 512.0),
        ("-2 ^ 2", -4.0),
        ("2 ^ -1", 0.5),
        ("- - 3", 3.0),
        ("+a", 0.25),
        ("a * b", 0.125),
        ("min(a, b, 0.1) + max(a, b)", 0.6),
        ("min(a)", 0.25),
        ("abs(a - b)", 0.25),
        ("floor(1.9) + ceil(0.1)", 2.0),
        ("exp(0) + sqrt(4) + log(1)", 3.0),
        ("0.7 * a + 0.3 * min(b, 1)", 0.325),
    ],
)
def test_a_formula_has_the_value_that_it_has_on_paper(text: str, value: float) -> None:
    assert parse(text).value({"a": 0.25, "b": 0.5}) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "its end"),
        ("1 +", "its end"),
        ("(1", "lacks ) before its end"),
        ("1)", "')'"),
        ("1 2", "'2'"),
        ("a b", "'b'"),
        ("a.b", "'.b'"),
        ("a[0]", "'[0]'"),
        ("'a'", "\"'a'\""),
        ("a ** 2", "'* 2'"),
        ("a // 2", "'/ 2'"),
        ("__import__(1)", "__import__ is no function"),
        ("sin(1)", "sin is no function"),
        ("abs(1, 2)", "abs takes one value, not 2"),
        ("min()", "')'"),
        ("(" * (MAX_DEPTH + 1) + "1" + ")" * (MAX_DEPTH + 1), "nested"),
        ("-" * 5000 + "1", "nested"),
        ("1" * 10_001, "10001 characters"),
        ("a = 1", "'= 1'"),
        ("a if a else 1", "'if a else 1'"),
    ],
)
def test_what_is_no_formula_is_refused_with_the_place(text: str, part: str) -> None:
    with pytest.raises(FormulaError) as caught:
        parse(text)
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("1 / a", "divides by zero"),
        ("0 / a", "divides by zero"),
        ("a ^ -1", "no value"),
        ("log(a)", "no value"),
        ("sqrt(a - 1)", "no value"),
        ("(a - 8) ^ 0.5", "no value"),
        ("exp(1000)", "no value"),
        ("9 ^ 9 ^ 9", "no value"),
        ("1e308 * 10", "is inf"),
        ("1e308 * 10 - 1e308 * 10", "is nan"),
        ("floor(1e308 * 10)", "no value"),
    ],
)
def test_a_formula_without_a_value_is_an_error_and_no_score(text: str, part: str) -> None:
    with pytest.raises(FormulaError, match=part):
        parse(text).value({"a": 0.0})


NUMBERS = st.floats(0.001, 1000).map(lambda number: f"{number:.6f}") | st.sampled_from(["a", "b"])
EXPRESSIONS = st.recursive(
    NUMBERS,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*", "/"]), inner).map(lambda parts: f"({' '.join(parts)})"),
        st.tuples(st.sampled_from(["min", "max"]), inner, inner).map(lambda p: f"{p[0]}({p[1]}, {p[2]})"),
        inner.map(lambda one: f"abs({one})"),
        inner.map(lambda one: f"-{one}"),
        st.tuples(inner, inner).map(lambda parts: f"{parts[0]} - {parts[1]} * 2"),
    ),
    max_leaves=20,
)


@given(EXPRESSIONS, st.floats(-10, 10), st.floats(-10, 10))
def test_a_formula_means_what_the_same_text_means_to_python(text: str, a: float, b: float) -> None:
    try:
        expected = eval(text, {"a": a, "b": b, "min": min, "max": max, "abs": abs})
    except ZeroDivisionError:
        expected = math.nan
    if math.isfinite(expected):
        assert parse(text).value({"a": a, "b": b}) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    else:
        with pytest.raises(FormulaError):
            parse(text).value({"a": a, "b": b})


@given(st.text(alphabet="ab1.+-*/^(), eminx_'\"[]", max_size=40))
def test_any_text_is_a_formula_or_a_formula_error(text: str) -> None:
    try:
        formula = parse(text)
    except FormulaError:
        return
    try:
        assert math.isfinite(formula.value(dict.fromkeys(formula.variables, 0.5)))
    except FormulaError:
        return
