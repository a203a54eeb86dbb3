# SPDX-License-Identifier: Apache-2.0
"""Where each setting was said, so that an error found long after loading still names its file and line."""

Location = tuple[str | int, ...]
"""``("engines", 0, "url")``."""


def dotted(at: Location) -> str:
    """``engines[0].url``."""
    text = ""
    for part in at:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


class Origins(dict[Location, str]):
    """Location -> ``file:line``, a variable of the environment, or a flag; what is not there came from ``source``."""

    def __init__(self, source: str = "settings") -> None:
        super().__init__()
        self.source = source

    def place(self, at: Location) -> str:
        """What every message about a setting begins with: ``millrace.yaml:3: engines[0].url``."""
        said = (self[at[:depth]] for depth in range(len(at), 0, -1) if at[:depth] in self)
        return f"{next(said, self.source)}: {dotted(at)}"
