# SPDX-License-Identifier: Apache-2.0
"""One process at a time, by a lock that the kernel lets go of whatever its holder dies of."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contract.errors import OperatorError


@contextmanager
def only_process(path: Path, what: str) -> Iterator[None]:
    """Holds the lock file ``path`` for the life of the block.

    Raises:
        OperatorError: another process holds it; its number is named.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise OperatorError(f"{what} is running already, in process {file.read().strip()} ({path})") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
