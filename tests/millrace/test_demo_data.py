# SPDX-License-Identifier: Apache-2.0
import hashlib
import io
import json
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.errors import OperatorError
from millrace.demo.data import LABELS, Row, balance, demo_rows, label_of, parse, rows_file
from millrace.fetch import Archive


def table_of(ratings: list[float]) -> str:
    return "".join(
        f"{number // 5 + 1}_{number % 5 + 1}\t{rating}\tsentence number {number} says so\r\n"
        for number, rating in enumerate(ratings)
    )


def archive_of(table: str, folder: Path) -> Path:
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as tar:
        member = tarfile.TarInfo("hutto_ICWSM_2014/amazonReviewSnippets_GroundTruth.txt")
        member.size = len(table)
        tar.addfile(member, io.BytesIO(table.encode()))
    path = folder / "source.zip"
    with zipfile.ZipFile(path, "w") as outer:
        outer.writestr("vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz", inner.getvalue())
    return path


@pytest.mark.parametrize(
    ("rating", "label"),
    [
        (-4, "negative"),
        (-1.0, "negative"),
        (-0.95, None),
        (-0.55, None),
        (-0.5, "neutral"),
        (0.5, "neutral"),
        (0.55, None),
        (0.95, None),
        (1.0, "positive"),
    ],
)
def test_a_rating_between_the_classes_has_no_label(rating: float, label: str | None) -> None:
    assert label_of(rating) == label


def test_short_long_ambiguous_and_repeated_sentences_are_left_out() -> None:
    kept = parse(
        "1_1\t2.0\tit works very well\n"
        "1_2\t2.0\ttoo short here\n"
        f"1_3\t2.0\t{'long ' * 61}\n"
        "1_4\t0.7\tpeople do not agree\n"
        "2_1\t2.0\tit works very well\n"
        "2_2\t-2.0\tblack &amp; white picture only\n"
    )
    assert [(row.id, row.review, row.text, row.label) for row in kept] == [
        ("1_1", "review-1", "it works very well", "positive"),
        ("2_2", "review-2", "black & white picture only", "negative"),
    ]


def test_a_line_that_is_no_row_is_named() -> None:
    with pytest.raises(OperatorError, match="line 2 of .* is not 'id, rating, text': 'nonsense'"):
        list(parse("1_1\t2.0\tit works very well\nnonsense\n"))


@given(st.lists(st.sampled_from([-2.0, 0.0, 2.0]), max_size=60), st.integers(1, 12), st.integers(0, 3))
def test_classes_are_balanced_from_the_first_rows_on_and_the_draw_depends_on_the_seed_alone(
    ratings: list[float], per_label: int, seed: int
) -> None:
    rows = list(parse(table_of(ratings)))
    drawn = balance(rows, per_label, seed)
    smallest = min(Counter(dict.fromkeys(LABELS, 0) | Counter(row.label for row in rows)).values())
    assert Counter(row.label for row in drawn) == Counter({label: min(per_label, smallest) for label in LABELS})
    assert drawn == balance(reversed(rows), per_label, seed)
    for end in range(0, len(drawn), len(LABELS)):
        assert len(set(Counter(row.label for row in drawn[:end]).values())) <= 1


def test_no_text_is_on_both_sides_of_a_split_by_review() -> None:
    texts = ["the same words again", *[f"words of their own {number}" for number in range(30)]]
    table = "".join(f"{review}_1\t2.0\t{texts[review % len(texts)]}\n" for review in range(100))
    sides: dict[bool, set[str]] = {True: set(), False: set()}
    for row in parse(table):
        held_out = hashlib.sha256(row.review.encode()).digest()[0] < 80
        sides[held_out].add(row.text)
    assert sides[True]
    assert sides[False]
    assert not sides[True] & sides[False]


def test_rows_are_built_once_and_read_back_the_same(tmp_path: Path) -> None:
    source = archive_of(table_of([-2.0, 0.0, 2.0] * 4), tmp_path)
    fetched: list[str] = []

    def get(archive: Archive, cache: Path) -> Path:
        fetched.append(archive.filename)
        return source

    first = demo_rows(tmp_path / "cache", get=get)
    assert demo_rows(tmp_path / "cache", get=get) == first
    assert len(first) == 12
    assert fetched == ["vaderSentiment-0.5.zip"]
    lines = rows_file(tmp_path / "cache", 0).read_text().splitlines()
    assert [Row(**json.loads(line)) for line in lines] == first
