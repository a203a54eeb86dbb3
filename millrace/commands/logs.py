# SPDX-License-Identifier: Apache-2.0
"""`millrace logs` and `millrace usage`: what was asked, what was answered, what it cost."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Annotated, Any, TypeVar

import typer

from contract.errors import NotFound
from contract.ids import invocation_of
from contract.money import format_usd
from contract.settings import Settings
from gateway.statements import bill
from logger.client import LoggerClient
from millrace.commands.common import AsJson, Config, Set, one_line, read_settings, show

app = typer.Typer(no_args_is_help=True, help="The log: every call, with its answer and its cost.")
T = TypeVar("T")


def ask(settings: Settings, question: Callable[[LoggerClient], Awaitable[T]]) -> T:
    """One question to the logger's private API.

    Raises:
        Overloaded: the logger does not answer.
    """

    async def run() -> T:
        async with LoggerClient(settings.log.url, settings.installation.token("logger")) as client:
            return await question(client)

    return asyncio.run(run())


@app.command()
def tail(
    count: Annotated[int, typer.Option("--count", "-n", help="How many.")] = 20,
    config: Config = None,
    overrides: Set = None,
    as_json: AsJson = False,
) -> None:
    """Show the newest invocations."""
    rows = ask(read_settings(config, overrides), lambda client: client.newest(count)).rows
    lines = [
        {
            "id": row["id"],
            "version": row["version"],
            "status": row["status"],
            "prompt": row["prompt_tokens"],
            "completion": row["completion_tokens"],
            "cost": format_usd(row["cost"] or 0, 9),
            "ms": None if row["total_ns"] is None else round(row["total_ns"] / 1e6),
        }
        for row in rows
    ]
    show(
        rows if as_json else lines,
        ("id", "version", "status", "prompt", "completion", "cost", "ms"),
        as_json,
        "the log is empty",
    )


@app.command("show")
def show_invocation(
    invocation: Annotated[str, typer.Argument(help="inv_…, or a response id.")],
    config: Config = None,
    overrides: Set = None,
    as_json: AsJson = False,
) -> None:
    """Show one invocation whole."""
    identifier = invocation_of(invocation)
    row: dict[str, Any] | None = ask(read_settings(config, overrides), lambda client: client.invocation(identifier))
    if row is None:
        raise NotFound(f"the log has no invocation {identifier}")
    one_line(as_json, row, lambda: "\n".join(f"{name:<22} {value}" for name, value in row.items() if value is not None))


def usage(config: Config = None, overrides: Set = None, as_json: AsJson = False) -> None:
    """Show requests, tokens and cost by model and version."""
    rows = ask(read_settings(config, overrides), lambda client: client.usage(group_by=["alias", "version"]))
    statement = bill(rows)
    one_line(as_json, {"lines": [asdict(line) for line in statement.lines]}, lambda: str(statement))
