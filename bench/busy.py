# SPDX-License-Identifier: Apache-2.0
"""Whether a machine is quiet enough for a figure to mean something."""

import argparse
import os
import platform
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

BUSY = 0.15
"""The share of the machine that others may use before a figure counts for nothing."""


def add_argument(parser: argparse.ArgumentParser) -> None:
    """``--busy``, for a machine that is never quiet."""
    parser.add_argument(
        "--busy", type=float, default=BUSY, metavar="SHARE",
        help=f"go on although others use up to this share of the machine; {BUSY} unless said",
    )  # fmt: skip


class Others:
    """What every process that is none of ours uses of the machine, from its making on."""

    def __init__(self, bound: float) -> None:
        self._bound = bound
        self._began, self._used = time.monotonic(), _cpu_of_others()
        self._largest = 0.0

    def check(self) -> None:
        """Looks at the time since the last look.

        Raises:
            SystemExit: others used more than the bound.
        """
        began, used = self._began, self._used
        self._began, self._used = time.monotonic(), _cpu_of_others()
        share = (self._used - used) / ((os.cpu_count() or 1) * (self._began - began))
        share = min(1.0, max(0.0, share))
        self._largest = max(self._largest, share)
        if share > self._bound:
            raise SystemExit(
                f"others use {share:.0%} of this machine: figures measured now would mean nothing "
                f"(--busy raises the bound of {self._bound:.0%})"
            )

    def describe(self) -> dict[str, Any]:
        """The machine, what was measured, and the largest share that others used meanwhile."""
        git = ["git", "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(git, capture_output=True, text=True, cwd=Path(__file__).parent, check=False)
        machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "machine": platform.machine()}
        return {"machine": machine, "commit": commit.stdout.strip(), "others": round(self._largest, 3)}


def watch(bound: float) -> Others:
    """A watch over a machine that is quiet now.

    Raises:
        SystemExit: it is not.
    """
    if bound > BUSY:
        print(
            f"others may use {bound:.0%} of the machine, not {BUSY:.0%}: compare these figures with none but their own"
        )
    others = Others(bound)
    time.sleep(2.0)
    others.check()
    return others


def _cpu_of_others() -> float:
    """CPU seconds of the machine, what its host took away included, less those of our processes, ended or not."""
    machine = psutil.cpu_times()
    total = sum(machine) - machine.idle - machine.iowait - machine.guest - machine.guest_nice
    me = psutil.Process()
    for each in (me, *me.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            cpu = each.cpu_times()
            total -= cpu.user + cpu.system + cpu.children_user + cpu.children_system
    return float(total)
