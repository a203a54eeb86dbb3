# SPDX-License-Identifier: Apache-2.0
"""What the gateway asks of a vLLM server beside answers: which models it holds, to load one, to drop one.

These are vLLM's administrative routes. They are called from here and reachable from nowhere else.
"""

from typing import Any

import aiohttp

from contract.errors import AdapterRefused
from gateway.upstream import NoConnection

LOOK_TIMEOUT = 5.0
LOAD_TIMEOUT = 120.0
PROBE_TIMEOUT = 120.0


class EngineClient:
    """One vLLM replica, by its base URL."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url
        self.context: int | None = None
        """Tokens of prompt and answer together, as its list of models last said."""

    async def models(self) -> frozenset[str]:
        """Every model name that the replica answers to: base and adapters.

        Raises:
            NoConnection: it does not answer, or not as vLLM does.
        """
        status, answer = await self._ask("GET", "/v1/models", None, LOOK_TIMEOUT)
        try:
            if status == 200:
                names = frozenset(str(model["id"]) for model in answer["data"])
                # vLLM says it of the base model alone.
                lengths = [int(model["max_model_len"]) for model in answer["data"] if model.get("max_model_len")]
                self.context = max(lengths, default=None)
                return names
        except (KeyError, TypeError, ValueError, AttributeError):
            pass  # no list of models: the same as any other wrong answer
        raise NoConnection(f"/v1/models of the engine answered {status} and no list of models")

    async def load(self, name: str, path: str) -> None:
        """Loads an adapter under a name that was never used for other bytes.

        Raises:
            AdapterRefused: the engine will not serve it, with the engine's reason.
            NoConnection: the engine did not answer, or has no room, or is not well: it says nothing of the adapter.
        """
        body = {"lora_name": name, "lora_path": path}
        status, answer = await self._ask("POST", "/v1/load_lora_adapter", body, LOAD_TIMEOUT)
        if status != 200 and name not in await self.models():
            raise await self._refusal(status, f"the engine refused to load {name} ({status}): {_reason(answer)}")

    async def unload(self, name: str) -> None:
        """Drops an adapter; nothing happens where the replica does not hold it.

        Raises:
            NoConnection: the engine did not answer.
        """
        await self._ask("POST", "/v1/unload_lora_adapter", {"lora_name": name}, LOOK_TIMEOUT)

    async def probe(self, name: str) -> int:
        """Has the model write one token; its completion tokens.

        Raises:
            AdapterRefused: it answers with an error or with nothing that is an answer.
            NoConnection: as for `load`, or the engine lost the model.
        """
        body = {"model": name, "messages": [{"role": "user", "content": "ping"}], "max_tokens": 1, "temperature": 0}
        status, answer = await self._ask("POST", "/v1/chat/completions", body, PROBE_TIMEOUT)
        try:
            if status == 200 and answer["choices"][0]["finish_reason"]:
                return int(answer["usage"]["completion_tokens"])
        except (KeyError, IndexError, TypeError, ValueError):
            pass  # no completion: the same as any other wrong answer
        message = f"{name} did not answer a probe ({status}): {_reason(answer)}"
        if status == 404:
            raise NoConnection(message)
        raise await self._refusal(status, message)

    async def _refusal(self, status: int, message: str) -> AdapterRefused | NoConnection:
        """Whether an error was the adapter's or the engine's own."""
        health, _ = await self._ask("GET", "/health", None, LOOK_TIMEOUT)
        return NoConnection(message) if status in (429, 503) or health >= 500 else AdapterRefused(message)

    async def _ask(self, method: str, path: str, body: Any, timeout: float) -> tuple[int, Any]:
        limit = aiohttp.ClientTimeout(total=timeout)
        try:
            async with self._session.request(method, self._url + path, json=body, timeout=limit) as response:
                if response.content_type == "application/json":
                    return response.status, await response.json()
                return response.status, await response.text()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise NoConnection(f"the engine does not answer {path}: {type(error).__name__}") from error


def _reason(answer: Any) -> str:
    if isinstance(answer, dict):
        error = answer.get("error", answer)
        return str(error.get("message", error) if isinstance(error, dict) else error)[:500]
    return str(answer)[:500]
