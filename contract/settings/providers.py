# SPDX-License-Identifier: Apache-2.0
"""An external provider of models, reached through litellm. Its key is in the environment and nowhere else."""

import os

from pydantic import Field, field_validator

from contract.errors import SettingsError
from contract.settings.units import Seconds, Section
from contract.settings.urls import http_url


class Provider(Section):
    """An account with a provider, or a server that speaks as one."""

    kind: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$",
        description="litellm's name of it, what its model names begin with: openai, anthropic, gemini, hosted_vllm, …",
    )
    api_base: str | None = Field(
        None, description="base URL of its API, with /v1 where it has one; where litellm knows it when absent"
    )
    api_key_env: str | None = Field(
        None,
        pattern=r"^[A-Z_][A-Z0-9_]*$",
        description="variable of the environment that holds its key. When absent no key is sent to an `api_base`; "
        "without one, litellm looks where that kind keeps its credentials",
    )
    first_byte_timeout: Seconds | None = Field(
        None, gt=0, description="to the first piece of its answer; as gateway's when absent"
    )
    read_timeout: Seconds | None = Field(
        None, gt=0, description="between two pieces of its answer; as gateway's when absent"
    )
    total_timeout: Seconds | None = Field(None, gt=0, description="for its whole answer; as gateway's when absent")

    @field_validator("api_base")
    @classmethod
    def _http(cls, value: str | None) -> str | None:
        return None if value is None else http_url(value, "a provider")

    @field_validator("api_key_env")
    @classmethod
    def _no_setting(cls, value: str | None) -> str | None:
        if value is not None and value.startswith("MILLRACE_"):
            raise ValueError("must not begin with MILLRACE_: such a variable is a setting")
        return value

    def key(self, place: str) -> str | None:
        """The key; ``place`` is what a message about this provider begins with.

        Raises:
            SettingsError: the variable that is to hold it is not set.
        """
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env, "").strip()
        if not key:
            raise SettingsError(f"{place}: {self.api_key_env!r} is not set in the environment, or empty")
        return key
