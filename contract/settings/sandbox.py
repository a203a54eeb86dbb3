# SPDX-License-Identifier: Apache-2.0
"""What code of users' graders may take of the machine it runs on; the defaults are OpenAI's limits."""

from typing import Literal

from pydantic import Field

from contract.settings.units import Bytes, Seconds, Section


class SandboxSettings(Section):
    """The sandbox in which users' code runs."""

    backend: Literal["bwrap"] = Field("bwrap", description="how code is kept apart: bubblewrap, on this machine")
    memory: Bytes = Field(2 * 2**30, ge=64 * 2**20, description="that a batch may take beside the modules it imports")
    disk: Bytes = Field(2**30, ge=2**20, description="that a batch may write under /tmp; it is memory of the machine")
    timeout: Seconds = Field(120.0, gt=0, description="for a row, or for a call with a whole batch")
    output: Bytes = Field(2**20, ge=1024, description="that a batch may write to stdout and stderr")
    parallel: int = Field(2, ge=1, le=64, description="batches that run at once, in each process that grades")
    warm: int = Field(8, ge=0, le=256, description="idle sandboxes kept ready, in each process that grades")
