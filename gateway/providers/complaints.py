# SPDX-License-Identifier: Apache-2.0
"""What litellm raises, as an error of ours.

A provider's words reach the client where the request is at fault, without keys, hosts and the provider's name of the
model. That a provider does not take this installation's key is no fault of the client, who has a good one of its own.
"""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from contract.errors import (
    EngineFailed,
    EngineTimeout,
    EngineUnavailable,
    InvalidRequest,
    MillraceError,
    UnsupportedParameter,
)
from gateway.routes import Target
from gateway.upstream import CONNECT_TIMEOUT, NoConnection

RETRY_AFTER, _LONGEST_RETRY = 1.0, 3600.0
_LONGEST_TEXT = 500
_AT_FAULT = (400, 413, 415, 422)
_REFUSED = (401, 402, 403, 404)
_NO_ROOM = (429, 503, 529)
_TOO_LATE = (408, 504)
_URL = re.compile(r"https?://\S+")
_OUTER = re.compile(r"^(litellm\.)?(\w+(Error|Exception)\s*(:|-)\s*(litellm\.)?)+")
_BYTES = re.compile(r"""^b(['"])(.*)\1$""", re.DOTALL)
_UNSUPPORTED = re.compile(r"parameters?: \[?'(\w+)'")
_log = logging.getLogger(__name__)


def complaint(error: BaseException, target: Target, secrets: Sequence[str]) -> MillraceError:
    """The error for what a call of litellm raised; ``secrets`` are never said to anybody."""
    if isinstance(error, MillraceError):
        return error
    kinds, status = [type(each).__name__ for each in _chain(error)], _status(error)
    if "UnsupportedParamsError" in kinds:
        field = _UNSUPPORTED.search(str(error))
        param = field[1] if field else None
        return UnsupportedParameter(
            f"{param or 'a field'}: the provider of {target.asked} does not take it", param=param
        )
    if status in _AT_FAULT:
        return _at_fault(error, kinds, target, secrets)
    _log.warning("the provider %s of %s: %s (%s)", target.engine, target.alias, kinds[0], status)
    if status in _REFUSED:
        what = "does not take this server's key, or does not know the model"
        return EngineFailed(
            f"the provider of {target.asked} {what}; its operator must mend it", code="provider_refused"
        )
    if status in _NO_ROOM:
        again = _retry_after(error)
        return EngineUnavailable("the provider has no room right now; try again", code="overloaded", retry_after=again)
    if "ConnectTimeout" in kinds:
        return EngineTimeout("the provider gave no connection (gateway.connect_timeout)", code=CONNECT_TIMEOUT)
    if status in _TOO_LATE or "Timeout" in kinds:
        return EngineTimeout("the provider took too long")
    if "ConnectError" in kinds:
        return NoConnection("the provider cannot be reached", retry_after=RETRY_AFTER)
    return EngineFailed(f"the provider failed while it answered ({status if status is not None else 'no status'})")


def _at_fault(error: BaseException, kinds: Sequence[str], target: Target, secrets: Sequence[str]) -> InvalidRequest:
    said = _said(error)
    message = str(said.get("message") or "the provider refused the request")
    for secret in secrets:
        message = message.replace(secret, "…")
    message = _URL.sub("…", message).replace(target.version, target.asked)[:_LONGEST_TEXT]
    param = said.get("param")
    if "ContentPolicyViolationError" in kinds or said.get("code") in ("content_policy_violation", "content_filter"):
        return InvalidRequest(message, code="content_policy_violation")
    if "ContextWindowExceededError" in kinds:
        return InvalidRequest(message, param="messages")
    return InvalidRequest(message, param=param if isinstance(param, str) else None)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what led to it."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or each.__context__


def _status(error: BaseException) -> int | None:
    """The HTTP status of the provider's answer, or what stands in its place in an event of its stream."""
    body = getattr(error, "body", None)
    for found in (getattr(error, "status_code", None), body.get("code") if isinstance(body, dict) else None):
        if isinstance(found, int):
            return found
    return None


def _said(error: BaseException) -> dict[str, Any]:
    """What the provider's own error object says, or the text alone."""
    body = getattr(error, "body", None)
    if isinstance(body, dict) and body.get("message"):
        return body
    text = _BYTES.sub(r"\2", _OUTER.sub("", str(getattr(error, "message", error))).strip())
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {"message": text}
    inner = document.get("error", document) if isinstance(document, dict) else None
    return inner if isinstance(inner, dict) else {}


def _retry_after(error: BaseException) -> float:
    """Seconds that the provider asks to wait."""
    headers: Mapping[str, str] = getattr(error, "litellm_response_headers", None) or {}
    try:
        return min(max(float(headers["retry-after"]), 0.0), _LONGEST_RETRY)
    except (KeyError, ValueError):
        return RETRY_AFTER
