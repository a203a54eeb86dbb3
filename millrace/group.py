# SPDX-License-Identifier: Apache-2.0
"""Process groups: a leader and whatever it started, signalled and waited for together."""

import asyncio
import contextlib
import ctypes
import os
import signal

import psutil

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """In a child, before it runs: the kernel sends it SIGTERM when its parent ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def signal_group(group: int, number: signal.Signals) -> None:
    """Signals every process of a group; nothing happens where none is left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


async def until_empty(group: int) -> None:
    """Waits until no process of a group does anything any more."""
    while any(_is_in(process, group) for process in psutil.process_iter(["status"])):
        await asyncio.sleep(0.1)


def _is_in(process: psutil.Process, group: int) -> bool:
    # A zombie is not counted: where nothing waits for orphans it stays for ever.
    try:
        return os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE
    except ProcessLookupError:
        return False
