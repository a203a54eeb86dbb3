# SPDX-License-Identifier: Apache-2.0
"""An engine: a vLLM server that runs somewhere, or one that is launched here."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from contract.settings.units import Bytes, Seconds, Section
from contract.settings.urls import http_url

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
SERVED = r"^[!-~]([ -~]{0,254}[!-~])?$"
"""What fits into a response header, as a version or a base model does."""


class EngineLaunch(Section):
    """A vLLM server that `millrace up` starts and keeps alive, on the loopback interface."""

    model: str = Field(description="smollm2-135m (embedded), a local folder, or a hub id")
    port: int = Field(8100, ge=1, le=65535, description="loopback port")
    max_model_len: int = Field(2048, ge=64, description="context length in tokens")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field("bfloat16", description="weights' type")
    max_loras: int = Field(4, ge=1, description="adapters in one batch; at least live versions + 1")
    max_cpu_loras: int = Field(8, ge=1, description="adapters kept in memory")
    max_lora_rank: Literal[1, 8, 16, 32, 64, 128, 256, 320, 512] = Field(16, description="largest adapter rank")
    kv_cache: Bytes = Field(
        2 * 2**30, ge=2**30, multiple_of=2**30, description="memory for the KV cache (CPU engine), whole GiB"
    )
    eager: bool = Field(False, description="skip compilation: ready sooner, slower after")
    max_queued: int = Field(512, ge=1, description="requests the engine queues before it answers 503")
    start_timeout: Seconds = Field(600.0, gt=0, description="until it must be ready")

    @model_validator(mode="after")
    def _room(self) -> Self:
        if self.max_cpu_loras < self.max_loras:
            raise ValueError(f"max_cpu_loras ({self.max_cpu_loras}) must be at least max_loras ({self.max_loras})")
        return self


class Engine(Section):
    """One engine: either found at a URL or launched here."""

    name: str = Field(pattern=NAME, description="its name in models, metrics and records")
    base_model: str = Field(pattern=SERVED, description="name under which the engine serves its base weights")
    url: str | list[str] | None = Field(
        None, description="base URL of a running engine, without /v1; a list where it has several replicas"
    )
    launch: EngineLaunch | None = Field(None, description="start it with `millrace up`")

    @field_validator("url")
    @classmethod
    def _http(cls, value: str | list[str] | None) -> str | list[str] | None:
        if value is None:
            return None
        urls = [value] if isinstance(value, str) else value
        if not urls or len(set(urls)) < len(urls):
            raise ValueError("a list of replicas holds each once, and at least one")
        return [_base_url(url) for url in urls]

    @model_validator(mode="after")
    def _either(self) -> Self:
        if (self.url is None) == (self.launch is None):
            raise ValueError("needs exactly one of url and launch")
        return self

    @property
    def base_urls(self) -> list[str]:
        """Where its replicas listen."""
        if isinstance(self.url, list):
            return self.url
        return [self.url or f"http://127.0.0.1:{self.launch.port if self.launch else 0}"]

    @property
    def base_url(self) -> str:
        """Where the first one listens."""
        return self.base_urls[0]


def _base_url(url: str) -> str:
    """Without the slash at its end; refused where no engine can be reached by it."""
    base = http_url(url, "an engine")
    if base.endswith("/v1"):
        raise ValueError("must end before /v1, which is added to it")
    return base
