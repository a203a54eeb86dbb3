# SPDX-License-Identifier: Apache-2.0
"""How the demo speaks: lines with the time since its start, and chapters."""

import sys
import time

from rich.console import Console, RenderableType


class Teller:
    """Prints the story with the time since its start."""

    def __init__(self, console: Console | None = None) -> None:
        # What is written to a file or a pipe has no width of its own, and the table needs more than the usual 80.
        self.console = console or Console(width=None if sys.stdout.isatty() else 120)
        self._started = time.monotonic()

    def say(self, text: str) -> None:
        """One line."""
        seconds = int(time.monotonic() - self._started)
        self.console.print(
            f"[{seconds // 60:2d}:{seconds % 60:02d}] {text}", markup=False, highlight=False, soft_wrap=True
        )

    def head(self, text: str) -> None:
        """The start of a chapter."""
        self.console.print()
        self.console.rule(text, align="left")

    def show(self, what: RenderableType) -> None:
        """A table, or lines that stand for themselves."""
        self.console.print(what, markup=False, highlight=False, soft_wrap=isinstance(what, str))
