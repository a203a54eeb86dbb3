# SPDX-License-Identifier: Apache-2.0
"""What a record keeps beside its meter part, and for how long."""

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from contract.settings.units import Seconds, Section

Rule = Literal["email", "phone", "card", "key"]
_RULES: list[Rule] = ["email", "phone", "card", "key"]
_MAX_PATTERNS, _MAX_PATTERN = 100, 1000


class Redaction(Section):
    """What is taken out of texts before they are written down."""

    rules: list[Rule] = Field(
        _RULES, description="built in: e-mail addresses, phone numbers, card numbers that pass Luhn's check, "
        "and what looks like a key or a password",
    )  # fmt: skip
    patterns: list[str] = Field(
        [], max_length=_MAX_PATTERNS, description="own expressions, in RE2's syntax, which takes time linear in a text"
    )

    @field_validator("patterns")
    @classmethod
    def _linear(cls, value: list[str]) -> list[str]:
        for pattern in value:
            if len(pattern) > _MAX_PATTERN:
                raise ValueError(f"{pattern[:40]!r}… is longer than {_MAX_PATTERN} characters")
            if compiled(pattern).search("") is not None:
                raise ValueError(f"{pattern!r} fits an empty text, and so every place of every text")
        return value

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.rules and not self.patterns:
            raise ValueError("has neither rules nor patterns, so nothing would be taken out; `payload: on` says that")
        return self


class PayloadPolicy(Section):
    """What a record keeps beside the meter part."""

    payload: Literal["on", "off", "sampled", "redacted"] = Field(
        "on", description="keep prompts and answers: all, none, those of a sample, or without what `redact` takes out"
    )
    sample: float = Field(
        0.1, gt=0, lt=1, description="with `sampled`: share of the conversations, or of the requests that are of none, "
        "drawn by a stable hash",
    )  # fmt: skip
    redact: Redaction = Field(Redaction(), description="with `redacted`: what is taken out")
    tokens: bool = Field(False, description="with the payload, keep token ids and sampling logprobs too")

    @field_validator("payload", mode="before")
    @classmethod
    def _word(cls, value: object) -> object:
        # To YAML, on and off without quotes are true and false.
        return {True: "on", False: "off"}[value] if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for name in ("sample", "redact"):
            if name in self.model_fields_set and self.payload != {"sample": "sampled", "redact": "redacted"}[name]:
                raise ValueError(f"has {name}, which is without effect with `payload: {self.payload}`")
        if self.tokens and self.payload in ("off", "redacted"):
            raise ValueError(f"keeps tokens, which are the text itself, with `payload: {self.payload}`")
        return self


class Retention(Section):
    """Ages at which the logger takes things out of the log by itself."""

    payload: Seconds | None = Field(
        None, ge=60, description="of prompts, answers, metadata, user ids and what people wrote; kept when absent"
    )
    meter: Seconds | None = Field(
        None, ge=60, description="of what is left of a record then, and its opinions and charges; kept when absent"
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.meter is not None and self.meter < (self.payload or 0):
            raise ValueError("keeps the meter part for less time than the payload, which is part of the same record")
        return self


def compiled(pattern: str) -> Any:
    """An expression that takes time linear in the text, whatever the expression.

    Raises:
        ValueError: it is none of RE2's.
    """
    import re2  # here, as few installations need it

    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        said = error.args[0]
        why = said.decode(errors="replace") if isinstance(said, bytes) else said
        raise ValueError(f"{pattern!r} is no expression of RE2: {why}") from None
