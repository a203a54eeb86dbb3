# SPDX-License-Identifier: Apache-2.0
"""The stages of a job's work: each leaves its result in the job's folder, and is not done again where that is there."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Stages:
    """The results of one job, under ``data_dir/jobs/<job>/``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def done(self, name: str) -> bool:
        """Whether the stage has its result."""
        return self._file(name).exists()

    def run(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The stage's result: read where an earlier process left it, else made and written in one piece."""
        file = self._file(name)
        if not file.exists():
            write_whole(file, json.dumps(work(), indent=2))
        found: dict[str, Any] = json.loads(file.read_text())
        return found

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.json"


class Stopwatch:
    """Seconds of training, over all the processes that worked on a job."""

    def __init__(self, file: Path, clock: Callable[[], float]) -> None:
        self._file = file
        self._clock = clock
        self._before = json.loads(file.read_text())["seconds"] if file.exists() else 0.0
        self._began = clock()

    @property
    def seconds(self) -> float:
        """Up to now."""
        return float(self._before + self._clock() - self._began)

    def note(self) -> None:
        """Writes the time down, so that a process that is killed later leaves it."""
        write_whole(self._file, json.dumps({"seconds": self.seconds}))


def write_whole(file: Path, text: str) -> None:
    """The file has the old text or the new one, never a part."""
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    fresh.write_text(text)
    fresh.replace(file)
