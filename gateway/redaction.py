# SPDX-License-Identifier: Apache-2.0
"""Takes e-mail addresses, phone and card numbers, keys and what an installation names itself out of texts.

Every expression is RE2's, whose time is linear in the text. A text in which none of them is found, as most are, is
looked through once. What is taken out leaves its name: ``[email]``, ``[phone]``, ``[card]``, ``[key]``, ``[redacted]``.

The rules lean to taking out too much. A phone number is one with its country's code (``+``, ``00``), with the zero of a
trunk, or of ten digits as North America writes them. Numbers as JSON has them are looked at as text: a card number in
the arguments of a call may be one.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import orjson

from contract.settings import Redaction
from contract.settings.policy import compiled

Rewrite = Callable[[bytes], bytes]
MOST_FOUND = 4000
"""Things found in one document, a long one counted as several: what is looked at one by one is bounded."""
_LONG = 64
_ANCHOR = re.compile(r"[$^]|\\[Az]")
_GAP = r"[\pZ\t.\-/()]{0,3}"
_EMAIL = r"[\pL\pN._%+'\-]+@[\pL\pN\-]+(?:\.[\pL\pN\-]+)+"
_PHONE = "|".join(
    (
        rf"(?:\+|\b00){_GAP}[1-9](?:{_GAP}\p{{Nd}}){{6,14}}",
        rf"\b0[1-9]\p{{Nd}}{{0,4}}[\pZ/.\-)]{{1,2}}\p{{Nd}}(?:{_GAP}\p{{Nd}}){{5,9}}",
        r"\b0[1-9]\p{Nd}{8,9}\b",
        r"(?:\(\s?|\b)[2-9]\p{Nd}{2}\)?[\pZ.\-]{0,2}[2-9]\p{Nd}{2}[\pZ.\-]?\p{Nd}{4}\b",
    )
)
_DIGITS = r"\p{Nd}{13,19}|\p{Nd}{3,7}(?:[\pZ\t.\-]{1,2}\p{Nd}{3,7}){2,}"
_KEY = "|".join(
    (
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?s:.*?)(?:-----END [A-Z ]*PRIVATE KEY-----|\z)",
        r"\b(?:sk|pk|rk|mr)[-_][A-Za-z0-9_\-]{12,}",
        r"\bgh[pousr]_[A-Za-z0-9]{16,}|\bgithub_pat_\w{16,}|\bglpat-[\w\-]{16,}|\bhf_[A-Za-z0-9]{16,}",
        r"\bxox[a-z]-[A-Za-z0-9\-]{10,}|\bA(?:KI|SI|GP|ID|RO)A[A-Z0-9]{16}|\bAIza[\w\-]{30,}",
        r"\beyJ[\w\-]{8,}\.[\w\-]{8,}(?:\.[\w\-]*)?",
        r"(?i:\bbearer)\s+[\w.~+/\-]{12,}=*",
        r"""(?i:\b(?:api[_\-]?key|secret|token|password|passwd|pwd))["']?\s*[:=]\s*["']?[^\s"',;]{6,}""",
        r"[A-Za-z0-9]{32,}",
    )
)
_FEWEST, _MOST = 13, 19
"""Digits of a card number (ISO/IEC 7812)."""


class Redactor:
    """The rules of one policy."""

    def __init__(self, redaction: Redaction) -> None:
        built_in = {"key": _KEY, "email": _EMAIL, "card": _DIGITS, "phone": _PHONE}
        # In this order: what an installation names itself as it was written, and a key before the digits in it.
        known = [(rule, pattern) for rule, pattern in built_in.items() if rule in redaction.rules]
        every = [f"(?:{pattern})" for pattern in (*redaction.patterns, *(pattern for _, pattern in known))]
        self._any = compiled("|".join(every))
        self._anchored = any(_ANCHOR.search(pattern) for pattern in redaction.patterns)
        self._steps = [(compiled(pattern), _instead("redacted")) for pattern in redaction.patterns]
        self._steps += [(compiled(pattern), _cards if rule == "card" else _instead(rule)) for rule, pattern in known]

    def text(self, text: str) -> str | None:
        """The text without what the rules take out; None where that is too much."""
        try:
            return _Pass(self._any, self._steps).text(text)
        except _TooMuch:
            return None

    def json(self, document: bytes | str) -> str | None:
        """A JSON document, every text in it so, the keys of objects included.

        None where it cannot be read, and so not be looked through, or where too much would be taken out.
        """
        value = _read(document)
        if value is _UNREADABLE:
            return None
        # One look at all texts, rather than one at each; an expression that names an end of its text needs each.
        if not self._anchored and self._any.search("\0".join(_texts(value)).encode()) is None:
            return document.decode() if isinstance(document, bytes) else document
        try:
            return _written(_Pass(self._any, self._steps).value(value))
        except _TooMuch:
            return None

    def name(self, name: str, secret: bytes) -> str:
        """A name by which rows belong together, such as a user's: one that the rules fit becomes another, always the
        same under the installation's ``secret``.
        """
        return name if self.text(name) == name else pseudonym(name, secret)


class _TooMuch(Exception):
    """So much is found that going on would hold up other requests."""


class _Pass:
    """One look through a document, which finds at most `MOST_FOUND` things."""

    def __init__(self, anything: Any, steps: Sequence[tuple[Any, Rewrite]]) -> None:
        self._any = anything
        self._steps = steps
        self._left = MOST_FOUND

    def value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(name): self.value(each) for name, each in value.items()}
        if isinstance(value, list):
            return [self.value(each) for each in value]
        if isinstance(value, bool) or not isinstance(value, int):
            return value
        kept = self.text(written := str(value))
        return value if kept == written else kept

    def text(self, text: str) -> str:
        data = text.encode()
        if self._any.search(data) is None:
            return text
        if text[:1] in "{[":
            within = _read(text)
            if isinstance(within, dict | list):  # the arguments of a call, which are JSON in a text
                return _written(self.value(within))
        for expression, rewrite in self._steps:
            data = self._rewritten(data, expression, rewrite)
        return data.decode()

    def _rewritten(self, data: bytes, expression: Any, rewrite: Rewrite) -> bytes:
        parts, at = [], 0
        for match in expression.finditer(data):
            start, end = match.span()
            self._left -= 1 + (end - start) // _LONG
            if self._left < 0:
                raise _TooMuch
            parts += [data[at:start], rewrite(data[start:end])]
            at = end
        return b"".join([*parts, data[at:]]) if parts else data


def pseudonym(name: str, secret: bytes) -> str:
    """What stands in the log for a name that is not to be there."""
    digest = hashlib.blake2b(b"name\0" + name.encode(errors="surrogatepass"), digest_size=12, key=secret[:64])
    return f"redacted-{digest.hexdigest()}"


_UNREADABLE = object()


def _read(document: bytes | str) -> Any:
    try:
        return orjson.loads(document)
    except orjson.JSONDecodeError:
        return _UNREADABLE


def _written(value: Any) -> str:
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:  # nested more deeply than it writes, or an integer longer than it writes
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _texts(value: Any) -> Iterator[str]:
    """Every text in a JSON value, and every whole number as one."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, each in value.items():
            yield name
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, int):
        yield str(value)


def _instead(name: str) -> Rewrite:
    mark = f"[{name}]".encode()
    return lambda _found: mark


def _cards(found: bytes) -> bytes:
    """Groups of digits, those that make up a card number taken out: one of them, or several side by side."""
    text = found.decode()
    groups = _groups(text)
    hidden: set[int] = set()
    for first in range(len(groups)):
        digits = ""
        for last in range(first, len(groups)):
            start, end = groups[last]
            digits += text[start:end]
            if len(digits) > _MOST:
                break
            if len(digits) >= _FEWEST and _passes(digits):
                hidden.update(range(first, last + 1))
    if not hidden:
        return found
    parts, at = [], 0
    for index, (start, end) in enumerate(groups):
        if index in hidden:
            if index - 1 not in hidden:
                parts.append(text[at:start] + "[card]")
            at = end
    return "".join([*parts, text[at:]]).encode()


def _groups(text: str) -> list[tuple[int, int]]:
    found, start = [], -1
    for place, character in enumerate(text + " "):
        if character.isdecimal():
            start = place if start < 0 else start
        elif start >= 0:
            found.append((start, place))
            start = -1
    return found


def _passes(digits: str) -> bool:
    """Luhn's check (ISO/IEC 7812-1, annex B)."""
    values = [int(digit) for digit in reversed(digits)]
    return sum(values[::2]) % 10 == -sum(sum(divmod(2 * value, 10)) for value in values[1::2]) % 10
