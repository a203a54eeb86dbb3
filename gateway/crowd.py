# SPDX-License-Identifier: Apache-2.0
"""How many clients' connections a worker holds, and what it does when one more comes.

Connections that wait for a request cost a descriptor each, and a process may open so many: clients that say nothing
could take them all, and no other client, engine or file would get any. So they have a bound. Over it those that have
waited longest are closed, as any client must expect of an idle connection; where every one is being answered, the one
that came last is told to come again.
"""

import heapq
import logging
import resource
from typing import TYPE_CHECKING

from contract.errors import Overloaded
from contract.settings import GatewaySettings
from gateway.limits import RETRY_AFTER
from gateway.metrics import CROWDED
from gateway.strand import NEVER

if TYPE_CHECKING:
    from gateway.door import Door
    from gateway.worker import Worker

OTHER_FILES = 64
"""Descriptors for everything that is neither a client nor an engine."""
_MANY = 2**20
_log = logging.getLogger(__name__)


def most_connections(settings: GatewaySettings, open_files: int | None = None) -> int:
    """``gateway.max_connections``, or less where the process may not open so many files beside those of its engines."""
    if open_files is None:
        open_files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if open_files == resource.RLIM_INFINITY:
        open_files = _MANY
    room = max(open_files - settings.max_concurrent - OTHER_FILES, open_files // 4)
    wanted = settings.max_connections
    if wanted is not None and wanted > room:
        _log.warning(
            "gateway.max_connections is %d, but only %d fit beside gateway.max_concurrent in the %d files that this "
            "process may open; raise its limit (ulimit -n)",
            wanted, room, open_files,
        )  # fmt: skip
    return room if wanted is None else min(wanted, room)


def admit(worker: "Worker", newcomer: "Door") -> Overloaded | None:
    """Makes room for a connection where all places are taken; the error to tell it where there is none to make."""
    doors, most = worker.doors, worker.max_connections
    if len(doors) <= most:
        return None
    # What waits for a request, or for its end, has a deadline. Several go at once, as to look for them takes a while.
    waiting = [door for door in doors if door.deadline < NEVER and door is not newcomer]
    for door in heapq.nsmallest(max(len(doors) - most, len(doors) // 64), waiting, key=lambda door: door.deadline):
        doors.discard(door)
        door.expire()
        worker.metrics.count(CROWDED, ("closed",))
    if len(doors) <= most:
        return None
    worker.metrics.count(CROWDED, ("refused",))
    return Overloaded(
        f"all {most} connections that this server takes are in use (gateway.max_connections); try again shortly",
        retry_after=RETRY_AFTER,
    )
