# SPDX-License-Identifier: Apache-2.0
"""The CPU priority of a process that must not be in the way of another."""

import logging
import os
from pathlib import Path

_log = logging.getLogger(__name__)


def step_back(nice: int) -> None:
    """Lowers this process's CPU priority, 19 being the lowest; on kernels that share the CPU by session, the session's
    too, where the process leads one.
    """
    os.nice(nice)
    group = Path("/proc/self/autogroup")
    if group.exists() and os.getsid(0) == os.getpid():
        try:
            group.write_text(str(nice))
        except OSError as error:
            _log.warning("the priority of the session stays as it is: %s", error)
