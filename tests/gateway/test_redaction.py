# SPDX-License-Identifier: Apache-2.0
import json
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.settings import Redaction
from gateway import redaction
from gateway.redaction import Redactor

ALL = Redactor(Redaction())
NAMES = st.text(string.ascii_lowercase + string.digits, min_size=2, max_size=12)
WORDS = ["Ask", "it", "was", "née", "good.", "\n", "5", "(2024-01-15)", "{x}", '"', "\\n", "日本"]
PROSE = st.lists(st.sampled_from(WORDS)).map(" ".join)


def _with_luhn(digits: str) -> str:
    return next(digits + str(last) for last in range(10) if redaction._passes(digits + str(last)))


@st.composite
def cards(draw: st.DrawFn) -> str:
    number = _with_luhn(draw(st.sampled_from("3456")) + draw(st.text(string.digits, min_size=11, max_size=17)))
    gap = draw(st.sampled_from(["", " ", "-"]))
    sizes = (4, 6, 5) if len(number) == 15 else (4, 4, 4, len(number) - 12)
    if not gap or len(number) < 15:
        return number
    ends = [sum(sizes[: place + 1]) for place in range(len(sizes))]
    return gap.join(number[end - size : end] for size, end in zip(sizes, ends, strict=True))


emails = st.tuples(NAMES, NAMES, st.sampled_from(["com", "co.uk", "example"])).map(
    lambda each: "{}+x@{}.{}".format(*each)
)
phones = st.sampled_from(
    ["+49 30 1234567", "+1 (415) 555-2671", "(415) 555-2671", "415-555-2671", "0049 30 1234567", "030/12345678",
     "01 23 45 67 89", "+33612345678", "020 7946 0018", "+81-3-1234-5678"]
)  # fmt: skip
keys = st.text(string.ascii_letters + string.digits, min_size=32, max_size=60).flatmap(
    lambda noise: st.sampled_from(
        [f"sk-{noise}", f"mr-{noise}", f"ghp_{noise}", noise, f"AKIA{noise[:16].upper()}", f"password={noise}",
         f"Bearer {noise}", f"eyJ{noise[:20]}.{noise}.{noise}", f"xoxb-{noise}",
         f"-----BEGIN RSA PRIVATE KEY-----\n{noise}\n-----END RSA PRIVATE KEY-----"]
    )
)  # fmt: skip


@pytest.mark.parametrize("rule", ["email", "phone", "card", "key"])
def test_what_a_rule_names_is_taken_out_wherever_it_stands(rule: Any) -> None:
    planted = {"email": emails, "phone": phones, "card": cards(), "key": keys}[rule]
    redactor = Redactor(Redaction(rules=[rule]))

    @given(planted, PROSE, PROSE)
    def check(secret: str, before: str, after: str) -> None:
        kept = redactor.text(f"{before} {secret} {after}")
        assert kept is not None and secret not in kept and f"[{rule}]" in kept

    check()


@given(st.one_of(emails, phones, cards(), keys), PROSE)
def test_nothing_planted_is_left_in_a_document_whatever_holds_it(secret: str, prose: str) -> None:
    said = f"{prose} {secret} {prose}"
    call = {"id": "call_1", "function": {"name": "f", "arguments": json.dumps({"to": said, secret: [1, None]})}}
    document = json.dumps([{"role": "user", "content": [{"type": "text", "text": said}]}, {"tool_calls": [call]}])
    kept = ALL.json(document)
    assert kept is not None
    assert secret not in kept and json.dumps(secret)[1:-1] not in kept
    assert json.loads(kept)[0]["role"] == "user"
    assert isinstance(json.loads(json.loads(kept)[1]["tool_calls"][0]["function"]["arguments"]), dict)


@pytest.mark.parametrize(
    "text",
    [
        "", "Is it good?", "On 2024-01-15 at 10:30:00.", "v1.2.3 of 192.168.100.200", "1700000000", "order 12345678",
        "1,234,567,890.12", "3.14159265358979", "100 200 300", "a@b", "state-of-the-art",
        "/usr/lib/python3/dist-packages",
        "4111 1111 1111 1112", "018f3a4e-5b6c-7d8e-9f00-112233445566", "[email] [card]", '{"a": [1, 2.5, true]}',
    ],
)  # fmt: skip
def test_what_no_rule_names_is_left_as_it_was(text: str) -> None:
    assert ALL.text(text) == text
    document = json.dumps([{"content": text, "n": 7, "flag": True}], separators=(",", ":"), ensure_ascii=False)
    assert ALL.json(document) == document


def test_a_card_number_goes_and_what_stands_beside_it_stays() -> None:
    for text, kept in (
        ("12 4111111111111111 05", "12 [card] 05"),
        ("4111-1111-1111-1111.", "[card]."),
        ("3782 822463 10005 and 5500005555555559", "[card] and [card]"),
        ("".join(chr(0x0660 + int(digit)) for digit in "4111111111111111"), "[card]"),  # in any script
    ):
        assert ALL.text(text) == kept


def test_numbers_are_looked_at_as_they_are_written() -> None:
    assert ALL.json('{"card":4111111111111111,"n":12,"x":0.5,"flag":true}') == (
        '{"card":"[card]","n":12,"x":0.5,"flag":true}'
    )


def test_own_expressions_are_taken_out_first_and_may_name_the_ends_of_a_text() -> None:
    own = Redactor(Redaction(rules=["email"], patterns=[r"\bCASE-\d+", "^secret$"]))
    assert own.text("CASE-17: ann@example.com") == "[redacted]: [email]"
    assert own.json('["secret","no secret"]') == '["[redacted]","no secret"]'
    assert (
        Redactor(Redaction(rules=[], patterns=["x+"])).text("axxb ann@example.com")
        == "a[redacted]b ann@e[redacted]ample.com"
    )


def test_what_cannot_be_read_is_not_kept() -> None:
    assert ALL.json("no json") is None
    assert ALL.json(r'["\ud800"]') is None  # half a character, which no text can have


def test_where_too_much_is_found_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "MOST_FOUND", 10)
    assert ALL.text("a@b.de " * 10) == "[email] " * 10
    assert ALL.text("a@b.de " * 11) is None
    assert ALL.json(json.dumps(["a@b.de"] * 11)) is None, "it counts over the whole document"
    assert ALL.text("123 " * 1000) is None, "a long find counts as several"


def test_a_name_that_the_rules_fit_is_always_the_same_other_one() -> None:
    secret, other = b"s" * 32, b"t" * 32
    assert ALL.name("user-17", secret) == "user-17"
    hidden = ALL.name("ann@example.com", secret)
    assert hidden == ALL.name("ann@example.com", secret) == redaction.pseudonym("ann@example.com", secret)
    assert hidden.startswith("redacted-") and ALL.name(hidden, secret) == hidden
    assert len({hidden, ALL.name("bob@example.com", secret), ALL.name("ann@example.com", other)}) == 3


@pytest.mark.parametrize(
    "text", ["a" * 2**20, "1" * 2**20, "a@" * 2**19, "+1 " * 2**18, "(((" * 2**18, "password=" * 2**16]
)
def test_no_text_takes_more_than_linear_time(text: str) -> None:
    """A quadratic search of a megabyte would be longer than the time that any test has."""
    ALL.json(json.dumps([text]))
