# SPDX-License-Identifier: Apache-2.0
"""Plays the demo: the stack, the story, and what is left standing."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from millrace.demo import settings as demo_settings
from millrace.demo.data import demo_rows
from millrace.demo.story import KEY_FILE, Story
from millrace.demo.teller import Teller
from millrace.fetch import cache_dir
from millrace.up import Stack


def play(data_dir: Path, *, keep: bool, overrides: Sequence[str] = (), console: Console | None = None) -> int:
    """Start the stack on ``data_dir``, tell the story, and leave the stack up until Ctrl-C where ``keep``.

    Returns:
        0 where the candidate is above the three others and nothing failed; 1 where not; 130 where it was interrupted.

    Raises:
        OperatorError: something that the message says how to mend.
    """
    teller = Teller(console)
    config = demo_settings.write(data_dir.absolute())
    settings = demo_settings.read(config, overrides)
    rows = demo_rows(cache_dir())
    code = 130

    async def body() -> None:
        nonlocal code
        code = await Story(settings, rows, teller).tell()
        if keep:
            teller.head("The stack is up")
            teller.say(f"OpenAI API: {settings.gateway.url}/v1, key in {config.parent / KEY_FILE}")
            teller.say(f"metrics:    {settings.gateway.url}/metrics")
            teller.say(f"by hand:    millrace usage --config {config}")
            teller.say("Ctrl-C stops every process")
            await asyncio.Event().wait()

    Stack(settings, config, list(overrides), teller.say).run(body)
    return code
