# SPDX-License-Identifier: Apache-2.0
"""Calls of litellm that are given up before they have begun.

litellm prepares a call in a thread, which gives back the coroutine that will make it. A caller that is cancelled
meanwhile never gets that coroutine: nobody awaits or closes it, and it keeps what it was given until the garbage
collector complains of it. So the thread's half is watched: what it makes for a caller that has gone is closed.
"""

import inspect
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_caller: ContextVar["_Caller | None"] = ContextVar("caller", default=None)


class _Caller:
    """Who waits for a thread; it and the thread may look at the same time, and to close twice is to close once."""

    def __init__(self) -> None:
        self._gone = False
        self._made: Coroutine[Any, Any, Any] | None = None

    def takes(self, made: Coroutine[Any, Any, Any]) -> None:
        """The thread is ready."""
        self._made = made
        if self._gone:
            self._close()

    def leaves(self) -> None:
        """Whatever was begun is over."""
        self._gone = True
        self._close()

    def _close(self) -> None:
        if self._made is not None and inspect.getcoroutinestate(self._made) == inspect.CORO_CREATED:
            self._made.close()


class Watched:
    """A function that litellm calls in a thread, in the context of its caller."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """As the function itself."""
        made = self._function(*arguments, **named)
        caller = _caller.get()
        if caller is not None and inspect.iscoroutine(made):
            caller.takes(made)
        return made


@contextmanager
def closing_what_never_began() -> Iterator[None]:
    """What a `Watched` function makes for the calls within it is begun there, or closed."""
    caller = _Caller()
    token = _caller.set(caller)
    try:
        yield
    finally:
        _caller.reset(token)
        caller.leaves()
