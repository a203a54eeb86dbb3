# SPDX-License-Identifier: Apache-2.0
"""A provider as what answers requests: the calls that it gets, and those that are under way."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import orjson

from contract.errors import MillraceError, SettingsError, UnsupportedParameter
from contract.settings import Provider as ProviderSettings
from contract.settings import Settings, listed_length
from gateway.asked import CHAT, RESPONSES, Asked
from gateway.providers.complaints import complaint
from gateway.providers.feed import Feed
from gateway.providers.sdk import Sdk
from gateway.providers.translation import Translation
from gateway.replicas import Backend
from gateway.routes import Target
from gateway.strand import Strand
from gateway.upstream import Stopwatch, Timeouts

NO_KEY = "none"
"""For a server at an `api_base` without a key: else litellm would send it one that it finds in the environment."""
_MARGIN = 30.0
"""Seconds past the total timeout after which litellm gives a call up by itself."""


class Provider(Backend):
    """One provider, which holds every model that the settings name of it."""

    endpoints = (CHAT,)
    """A response is asked for as a chat completion."""

    def __init__(self, name: str, settings: Settings, sdk: Sdk, account: dict[str, Any]) -> None:
        """``account`` goes with every call.

        Raises:
            SettingsError: litellm knows no provider of its kind.
        """
        said = settings.providers[name]
        models = [model.model or "" for model in settings.models.values() if model.provider == name]
        super().__init__(name, frozenset(models), healthy=True)
        self._kind = said.kind
        self._sdk = sdk
        self._timeouts = _timeouts(settings, said)
        self._account = {**account, "timeout": sdk.timeout(self._timeouts.total + _MARGIN, self._timeouts.connect)}
        self._secrets = [each for each in (account.get("api_key"), *_hosts(said)) if each and each != NO_KEY]
        if not sdk.knows(said.kind):
            place = settings.place("providers", name, "kind")
            raise SettingsError(f"{place}: {said.kind!r} is no provider that litellm knows")
        longest = settings.gateway.max_completion_tokens
        self._longest = {
            model: min(longest, listed_length(said.kind, model) or longest)
            for model in models
            if sdk.bounds(said.kind, model)
        }
        self._calls: set[asyncio.Task[None]] = set()

    def call(self, request: Asked, target: Target) -> dict[str, Any]:
        """A request as litellm takes it.

        Raises:
            UnsupportedParameter: it came on a route that no provider is reached by.
        """
        if request.endpoint not in self.endpoints:
            taken = f"POST {CHAT.path} and {RESPONSES.path}"
            message = f"model: {target.asked!r} is a provider's, which answers {taken} alone"
            raise UnsupportedParameter(message, param="model")
        call: dict[str, Any] = orjson.loads(request.parameters)
        if not request.bounded and target.version in self._longest:
            call["max_completion_tokens"] = self._longest[target.version]
        call["model"] = f"{self._kind}/{target.version}"
        call["messages"] = orjson.loads(request.prompt)
        return call | self._account

    async def ask(
        self, call: dict[str, Any], stream: bool, response_id: str, target: Target, strand: Strand, watch: Stopwatch
    ) -> Feed:
        """Sends what `call` gave; the answer as soon as something of it is there.

        Raises:
            MillraceError: there is none, for the reason that it says.
        """
        translation = Translation(response_id, target.version, self._sdk.finish_reason)
        pieces = translation.events(self._sdk.chunks(call)) if stream else self._whole(translation, call)
        told = partial(complaint, target=target, secrets=self._secrets)
        feed = Feed(pieces, told, strand, self._timeouts, watch)
        self._calls.add(feed.task)
        feed.task.add_done_callback(self._calls.discard)
        await feed.head()
        return feed

    def failed(self, error: MillraceError, now: float) -> None:
        """Nothing is learnt: there is no other replica to prefer, and the next request shows whether it is back."""

    async def close(self) -> None:
        """Ends the calls that are left, and their connections."""
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)
        await self._sdk.close()

    async def _whole(self, translation: Translation, call: dict[str, Any]) -> AsyncGenerator[bytes]:
        yield translation.whole(await self._sdk.whole(call))


def open_providers(settings: Settings) -> list[Provider]:
    """Every declared provider; without one, litellm is not even imported.

    Raises:
        OperatorError: litellm is not installed, a key is not in the environment, or a kind is none.
    """
    if not settings.providers:
        return []
    accounts = {name: _account(name, settings) for name in settings.providers}  # first, as the import takes seconds
    sdk = Sdk()
    return [Provider(name, settings, sdk, account) for name, account in accounts.items()]


def _account(name: str, settings: Settings) -> dict[str, Any]:
    """With which key and where.

    Raises:
        SettingsError: naming the variable of the environment that holds no key.
    """
    said = settings.providers[name]
    key = said.key(settings.place("providers", name, "api_key_env"))
    if key is None and said.api_base is not None:
        key = NO_KEY
    given = {"api_base": said.api_base, "api_key": key}
    return {field: value for field, value in given.items() if value is not None}


def _hosts(said: ProviderSettings) -> Sequence[str]:
    """What names the provider's place; the longest first."""
    if said.api_base is None:
        return ()
    parts = urlsplit(said.api_base)
    return (said.api_base, parts.netloc, parts.hostname or parts.netloc)


def _timeouts(settings: Settings, said: ProviderSettings) -> Timeouts:
    usual = Timeouts.of(settings.gateway)
    return replace(
        usual,
        first_byte=said.first_byte_timeout or usual.first_byte,
        read=said.read_timeout or usual.read,
        total=said.total_timeout or usual.total,
    )
