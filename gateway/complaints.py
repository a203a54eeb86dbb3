# SPDX-License-Identifier: Apache-2.0
"""What an engine complains of, as an error of ours.

The engine's words reach the client where the request is at fault; a fault of the engine is told by its kind.
"""

from typing import Any

import orjson

from contract.errors import EngineFailed, EngineUnavailable, InvalidRequest, MillraceError
from gateway.routes import Target

_NO_ROUTE = "Not Found"
"""What an engine says of a route that it does not have; of a model it says its name."""


class LostModel(EngineUnavailable):
    """The replica does not hold the version any more."""


def complaint(status: int | None, body: bytes, target: Target | None, path: str = "") -> MillraceError:
    """The error for an answer with ``status``, or, with None, for an error event in a stream (its body has a code).

    ``path`` is the route that was asked for: an engine has those alone that its model can answer on.
    """
    error = _error_of(body)
    code = status if status is not None else error.get("code")
    if code == 404 and error.get("detail", error.get("message")) == _NO_ROUTE and target is not None:
        return InvalidRequest(
            f"model: {target.asked!r} does not answer on {path}", param="model", code="unsupported_model"
        )
    if code == 404:
        return LostModel("the engine does not hold this model any more", retry_after=1.0)
    if code in (429, 503):
        return EngineUnavailable("the engine has no room right now; try again", code="overloaded", retry_after=1.0)
    if isinstance(code, int) and 400 <= code < 500:
        message = str(error.get("message") or f"the engine refused the request ({code})")
        param = error.get("param")
        if target is not None:
            message = message.replace(target.version, target.asked)
        return InvalidRequest(message, param=param if isinstance(param, str) else None)
    return EngineFailed(f"the engine failed while it answered ({code if code is not None else 'no status'})")


def _error_of(body: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}  # not vLLM's way to complain; the status alone decides
    error = document.get("error", document) if isinstance(document, dict) else {}
    return error if isinstance(error, dict) else {}
