# SPDX-License-Identifier: Apache-2.0
"""`millrace keys`: who may call the gateway."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from contract.seed import DEFAULT_PROJECT
from gateway import keys
from millrace.commands.common import AsJson, Config, Set, database, one_line, read_settings, show

app = typer.Typer(no_args_is_help=True, help="API keys: made once, shown once, kept as a hash.")

Project = Annotated[str, typer.Option(help="Project that pays.")]


@app.command()
def create(
    name: Annotated[str, typer.Option(help="What it is for.")] = "key",
    project: Project = DEFAULT_PROJECT,
    config: Config = None,
    overrides: Set = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it, this once."""
    with database(read_settings(config, overrides), seeded=True) as engine, engine.begin() as connection:
        made = keys.create_key(connection, project, name)
    one_line(as_json, {"id": made.id, "key": made.secret}, lambda: made.secret)


@app.command("list")
def list_keys(config: Config = None, overrides: Set = None, as_json: AsJson = False) -> None:
    """Show every key's name, prefix and state; never the key."""
    with database(read_settings(config, overrides)) as engine, engine.begin() as connection:
        rows = [
            {
                "id": key.id,
                "name": key.name,
                "project": key.project,
                "prefix": key.prefix,
                "created": datetime.fromtimestamp(key.created_ns / 1e9, UTC).isoformat(timespec="seconds"),
                "revoked": key.revoked_ns is not None,
            }
            for key in keys.list_keys(connection)
        ]
    show(
        rows,
        ("id", "name", "project", "prefix", "created", "revoked"),
        as_json,
        "no keys; `millrace keys create` makes one",
    )


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="Its id, key_….")],
    config: Config = None,
    overrides: Set = None,
    as_json: AsJson = False,
) -> None:
    """Make a key useless, at once, on every worker."""
    with database(read_settings(config, overrides)) as engine, engine.begin() as connection:
        keys.revoke_key(connection, key)
    one_line(as_json, {"id": key, "revoked": True}, lambda: f"{key} is revoked")
