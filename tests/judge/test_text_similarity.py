# SPDX-License-Identifier: Apache-2.0
import asyncio
import importlib
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.errors import SettingsError
from contract.grading import GraderError, Sample, Score
from judge.graders import build_grader
from judge.graders.text_similarity import _library

METRICS = ("fuzzy_match", "bleu", "gleu", "rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l")
MAT, OTHER_MAT = "the cat sat on the mat", "the cat is on the mat"


def spec(metric: str) -> dict[str, Any]:
    return {
        "type": "text_similarity",
        "input": "{{ sample.output_text }}",
        "reference": "{{ item.right }}",
        "evaluation_metric": metric,
    }


def result(metric: str, text: str, **item: str) -> Score | GraderError:
    (found,) = asyncio.run(build_grader("near", spec(metric)).grade([Sample(id="x", output_text=text, item=item)]))
    return found


def value(metric: str, text: str, reference: str) -> float:
    found = result(metric, text, right=reference)
    assert isinstance(found, Score), found
    return found.value


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("fuzzy_match", 40 / 43),  # 22 and 21 characters, three of which are not in common
        ("rouge_1", 5 / 6),  # five of six words each
        ("rouge_2", 3 / 5),  # the cat, on the, the mat
        ("rouge_3", 1 / 4),  # on the mat
        ("rouge_4", 0.0),
        ("rouge_5", 0.0),
        ("rouge_l", 5 / 6),
        ("gleu", (5 + 3 + 1 + 0) / (6 + 5 + 4 + 3)),
        ("bleu", (5 / 6 * 3 / 5 * 1 / 4 * 0.1 / 3) ** 0.25),
    ],
)
def test_a_metric_has_the_value_that_it_has_on_paper(metric: str, expected: float) -> None:
    assert value(metric, MAT, OTHER_MAT) == pytest.approx(expected)


@pytest.mark.parametrize("metric", METRICS)
def test_the_same_text_is_alike_and_nothing_is_not(metric: str) -> None:
    assert value(metric, MAT, MAT) == pytest.approx(1.0)
    assert value(metric, "", "") == 1.0
    assert value(metric, "", MAT) == 0.0
    assert value(metric, MAT, "") == 0.0


def test_a_short_text_that_is_the_same_has_full_bleu() -> None:
    assert value("bleu", "yes", "yes") == pytest.approx(1.0)


@given(st.sampled_from(METRICS), st.text(max_size=60), st.text(max_size=60))
def test_any_two_texts_have_a_value_from_0_to_1(metric: str, text: str, reference: str) -> None:
    assert 0.0 <= value(metric, text, reference) <= 1.0


def test_a_missing_variable_is_an_error_of_the_sample() -> None:
    found = result("rouge_l", "text")
    assert isinstance(found, GraderError) and found.kind == "invalid_variable" and "item.right" in found.message


@pytest.mark.parametrize(
    ("metric", "part"), [("cosine", "embeddings"), ("levenshtein", "'levenshtein'"), ("rouge_6", "'rouge_6'")]
)
def test_a_metric_that_cannot_be_had_is_named(metric: str, part: str) -> None:
    with pytest.raises(SettingsError, match=r"graders\.near\.evaluation_metric") as caught:
        build_grader("near", spec(metric))
    assert part in str(caught.value)


def test_meteor_without_its_data_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("nltk.data"), "path", [])
    with pytest.raises(SettingsError, match="nltk.downloader wordnet"):
        build_grader("near", spec("meteor"))


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    _library.cache_clear()
    monkeypatch.setitem(sys.modules, "rapidfuzz", None)
    monkeypatch.delitem(sys.modules, "rapidfuzz.fuzz", raising=False)
    with pytest.raises(SettingsError, match="rapidfuzz"):
        build_grader("near", spec("fuzzy_match"))
