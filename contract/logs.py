# SPDX-License-Identifier: Apache-2.0
"""How every process of ours writes its own log: lines on standard error, which whoever started it keeps."""

import logging


def to_stderr() -> None:
    """Call it once, where a process begins. Nothing that a request carries is ever logged."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
