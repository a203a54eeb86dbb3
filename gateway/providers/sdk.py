# SPDX-License-Identifier: Apache-2.0
"""litellm, imported late and set up to do nothing by itself: no network, no retries, no callbacks, no log of prompts.

Its import takes seconds and 170 MB, so it is there only where a provider is declared, and before any request.
"""

import logging
import os
import warnings
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from contract.errors import OperatorError
from gateway.providers.begun import Watched, closing_what_never_began

# Each would otherwise be fetched at the import, or read from a file `.env` of whatever folder this is.
_ALONE = {
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_LOCAL_AUTOROUTER_PRESETS": "True",
    "LITELLM_LOCAL_BLOG_POSTS": "True",
    "LITELLM_LOCAL_POLICY_TEMPLATES": "True",
}
_QUIET = {"max_retries": 0, "num_retries": 0, "drop_params": False, "no-log": True}
"""With every call: what is tried again, left out or written down is decided here."""


class Sdk:
    """What is used of litellm."""

    def __init__(self) -> None:
        """Imports it; some seconds.

        Raises:
            OperatorError: it is not installed.
        """
        os.environ.update(_ALONE)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                import httpx
                import litellm
                from litellm.litellm_core_utils.core_helpers import map_finish_reason
            except ImportError as error:
                raise OperatorError(f"providers need litellm: pip install 'millrace[providers]' ({error})") from error
            self._litellm: Any = litellm
            self._timeout: Any = httpx.Timeout
            self.finish_reason: Callable[[str], str] = map_finish_reason
            """A provider's word in OpenAI's words."""
            self._hush()
            if not isinstance(litellm.main.completion, Watched):
                litellm.main.completion = Watched(litellm.main.completion)
            self._warm_up()

    def _hush(self) -> None:
        litellm = self._litellm
        litellm.suppress_debug_info = litellm.turn_off_message_logging = True
        litellm.drop_params = litellm.modify_params = False
        litellm.callbacks = litellm.success_callback = litellm.failure_callback = []
        for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        for name in ("httpx", "openai"):
            logging.getLogger(name).setLevel(logging.WARNING)

    def _warm_up(self) -> None:
        """Has litellm make up an answer: much of it is imported and built at its first one."""
        question = [{"role": "user", "content": "ping"}]
        for stream in (False, True):
            answer = self._litellm.completion("openai/none", question, mock_response="pong", stream=stream, **_QUIET)
            list(answer)

    def knows(self, kind: str) -> bool:
        """Whether it has a provider of that name."""
        return kind in {getattr(each, "value", each) for each in self._litellm.provider_list}

    def bounds(self, kind: str, model: str) -> bool:
        """Whether the length of the model's answers can be bounded by ``max_completion_tokens``."""
        known = self._litellm.get_supported_openai_params(model=model, custom_llm_provider=kind) or ()
        return "max_completion_tokens" in known

    def timeout(self, total: float, connect: float) -> Any:
        """Seconds, as a call takes them."""
        return self._timeout(total, connect=connect)

    async def whole(self, call: Mapping[str, Any]) -> Any:
        """A plain answer.

        Raises:
            Exception: see `gateway.providers.complaints`.
        """
        return await self._completion(**call)

    async def chunks(self, call: Mapping[str, Any]) -> AsyncGenerator[Any]:
        """The chunks of a stream as litellm's reader of that provider made them.

        Its wrapper around that reader is left out: it makes up usage and finish reasons that did not come, keeps one
        finish reason for all choices, and calls a text that repeats itself an error.

        Raises:
            Exception: see `gateway.providers.complaints`.
        """
        stream = await self._completion(**call, stream=True, stream_options={"include_usage": True})
        try:
            if stream.completion_stream is None:  # some providers are asked only now
                await self._fetched(stream)
            async for chunk in stream.completion_stream:
                if chunk is not None:
                    yield chunk
        finally:
            await stream.aclose()

    async def _completion(self, **call: Any) -> Any:
        with closing_what_never_began():
            return await self._litellm.acompletion(**call, **_QUIET)

    async def _fetched(self, stream: Any) -> None:
        try:
            await stream.fetch_stream()
        except Exception as error:
            # As litellm does where it asks at once; it raises what it makes of the error.
            self._litellm.exception_type(
                model=stream.model, original_exception=error, custom_llm_provider=stream.custom_llm_provider
            )
            raise

    async def close(self) -> None:
        """Closes its connections."""
        await self._litellm.close_litellm_async_clients()
