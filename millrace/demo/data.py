# SPDX-License-Identifier: Apache-2.0
"""The demo's data: sentences of real product reviews, each rated by twenty people or more, in three balanced classes.

Source: "amazonReviewSnippets" of C.J. Hutto and E. Gilbert, VADER (ICWSM 2014), MIT licence: 3,708 sentences of 309
reviews of five products, each with the mean of at least 20 independent ratings from -4 to +4. It comes inside the
source archive of vaderSentiment 0.5, the one release that carries it.

A sentence is **negative** at a mean of -1 or below, **positive** at +1 or above, **neutral** within 0.5 of zero. What
lies between is ambiguous to people too and is left out, as are sentences under 4 or over 60 words and repeated ones.

Usage: python -m millrace.demo.data   (builds the rows where they are missing and prints their file)
"""

import hashlib
import html
import io
import json
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from contract.errors import OperatorError
from millrace.fetch import Archive, cache_dir, fetch

LABELS = ("negative", "neutral", "positive")
ROWS_PER_LABEL = 450
CLEAR = 1.0
NEUTRAL = 0.5
WORDS = range(4, 61)

ARCHIVE = Archive(
    name="vaderSentiment",
    version="0.5",
    filename="vaderSentiment-0.5.zip",
    sha256="5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a",
)
_INNER = "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz"
_TABLE = "hutto_ICWSM_2014/amazonReviewSnippets_GroundTruth.txt"


@dataclass(frozen=True)
class Row:
    """One sentence. ``review`` groups the sentences of one review: a split by it never has one review on both sides."""

    id: str
    review: str
    text: str
    label: str
    rating: float


def label_of(rating: float) -> str | None:
    """The class of a mean rating, or None where it is ambiguous."""
    if rating <= -CLEAR:
        return "negative"
    if rating >= CLEAR:
        return "positive"
    return "neutral" if abs(rating) <= NEUTRAL else None


def parse(table: str) -> Iterator[Row]:
    """The usable rows of a ``ID <tab> mean rating <tab> text`` table, in its order, repeated texts once.

    Raises:
        OperatorError: a line is not of that form; names the line.
    """
    seen: set[str] = set()
    for number, line in enumerate(table.splitlines(), start=1):
        parts = line.split("\t")
        try:
            identity, rating, text = parts[0], float(parts[1]), html.unescape(parts[2]).strip()
        except (IndexError, ValueError):
            raise OperatorError(f"line {number} of {_TABLE} is not 'id, rating, text': {line[:80]!r}") from None
        label = label_of(rating)
        if label is None or len(text.split()) not in WORDS or text in seen:
            continue
        seen.add(text)
        yield Row(id=identity, review=f"review-{identity.split('_')[0]}", text=text, label=label, rating=rating)


def balance(rows: Iterable[Row], per_label: int = ROWS_PER_LABEL, seed: int = 0) -> list[Row]:
    """As many rows of each class, at most ``per_label``, drawn by a hash of seed and row, the classes taking turns."""
    shuffled = sorted(rows, key=lambda row: hashlib.sha256(f"{seed}:{row.id}".encode()).digest())
    by_label = [[row for row in shuffled if row.label == label][:per_label] for label in LABELS]
    return [row for one_of_each in zip(*by_label, strict=False) for row in one_of_each]


def read_table(archive: Path) -> str:
    """The ratings table inside the source archive."""
    with zipfile.ZipFile(archive) as outer, tarfile.open(fileobj=io.BytesIO(outer.read(_INNER))) as inner:
        member = inner.extractfile(_TABLE)
        assert member is not None  # the archive's digest was checked, so the file is in it
        return member.read().decode("ascii")


def demo_rows(cache: Path, seed: int = 0, get: Callable[[Archive, Path], Path] = fetch) -> list[Row]:
    """The demo's rows, from the cache where an earlier run left them."""
    target = rows_file(cache, seed)
    if not target.exists():
        rows = balance(parse(read_table(get(ARCHIVE, cache))), seed=seed)
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = target.with_suffix(".partial")
        fresh.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
        fresh.replace(target)
    return [Row(**json.loads(line)) for line in target.read_text().splitlines()]


def rows_file(cache: Path, seed: int) -> Path:
    """Where the rows are cached; its name changes with all that decides them."""
    recipe = f"{ARCHIVE.sha256} {CLEAR} {NEUTRAL} {WORDS} {ROWS_PER_LABEL} {seed} in turns"
    return cache / "demo" / f"reviews-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}.jsonl"


def main() -> None:
    """Build the rows where they are missing."""
    try:
        rows = demo_rows(cache_dir())
    except OperatorError as error:
        sys.exit(f"millrace: {error}")
    print(f"{rows_file(cache_dir(), 0)}: {len(rows)} sentences of {len({row.review for row in rows})} reviews")


if __name__ == "__main__":
    main()
