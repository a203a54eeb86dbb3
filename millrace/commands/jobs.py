# SPDX-License-Identifier: Apache-2.0
"""`millrace jobs` and `millrace loops`: what is learning, what has, and what starts it."""

from typing import Annotated, Any

import sqlalchemy as sa
import typer

from contract.database import job_events, jobs
from contract.errors import NotFound
from millrace.commands.common import AsJson, Config, Set, database, one_line, read_settings, show

jobs_app = typer.Typer(no_args_is_help=True, help="Training jobs.")
loops_app = typer.Typer(no_args_is_help=True, help="Loops: what starts training by itself.")


@jobs_app.command("list")
def list_jobs(config: Config = None, overrides: Set = None, as_json: AsJson = False) -> None:
    """Show every job, newest first."""
    with database(read_settings(config, overrides)) as engine, engine.begin() as connection:
        query = sa.select(jobs).order_by(jobs.c.created_ns.desc())
        rows = [dict(row._mapping) for row in connection.execute(query)]
    show(rows, ("id", "loop", "alias", "status", "version", "error"), as_json, "no jobs yet")


@jobs_app.command("show")
def show_job(
    job: Annotated[str, typer.Argument(help="Its id.")],
    config: Config = None,
    overrides: Set = None,
    as_json: AsJson = False,
) -> None:
    """Show one job with its events."""
    with database(read_settings(config, overrides)) as engine, engine.begin() as connection:
        row = connection.execute(sa.select(jobs).where(jobs.c.id == job)).one_or_none()
        if row is None:
            raise NotFound(f"there is no job {job}; `millrace jobs list` shows them")
        events = [dict(e._mapping) for e in connection.execute(sa.select(job_events).where(job_events.c.job == job))]
    document: dict[str, Any] = {**row._mapping, "events": events}
    lines = [f"{job}  {row.status}  loop {row.loop}  version {row.version or 'none'}"]
    lines += [f"  {event['level']:<5} {event['message']}" for event in events]
    one_line(as_json, document, lambda: "\n".join(lines))


@loops_app.command("list")
def list_loops(config: Config = None, overrides: Set = None, as_json: AsJson = False) -> None:
    """Show every declared loop and what starts it."""
    rows = [
        {
            "loop": name,
            "model": loop.model,
            "base": loop.base,
            "reference": loop.data.reference,
            "graders": ", ".join(loop.graders),
            "new_rows": loop.trigger.new_rows,
            "every": loop.trigger.every,
        }
        for name, loop in read_settings(config, overrides).loops.items()
    ]
    columns = ("loop", "model", "base", "reference", "graders", "new_rows", "every")
    show(rows, columns, as_json, "no loops; declare some under `loops`")
