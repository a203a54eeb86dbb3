# SPDX-License-Identifier: Apache-2.0
"""How the demo speaks: lines with the time since its start, and chapters."""

import time

from rich.console import Console


class Teller:
    """Prints the story with the time since its start."""

    def __init__(self, console: Console) -> None:
        self.console = console
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
