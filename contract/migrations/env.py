# SPDX-License-Identifier: Apache-2.0
"""Alembic's entry: runs the migrations on the engine that `contract.database` hands over."""

from alembic import context

from contract.database import metadata

with context.config.attributes["engine"].begin() as connection:
    context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
    context.run_migrations()
