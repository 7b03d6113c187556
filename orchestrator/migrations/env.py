"""Alembic's entry point: runs the migrations in `versions/` on the connection that `running` hands over."""

from alembic import context

if context.is_offline_mode():
    context.configure(dialect_name="postgresql")
else:
    connection = context.config.attributes["connection"]
    # SQLite waits for the disk at each commit, so all steps share one. On PostgreSQL locks are held briefly.
    step_by_step = connection.dialect.name == "postgresql"
    context.configure(connection=connection, render_as_batch=True, transaction_per_migration=step_by_step)
with context.begin_transaction():
    context.run_migrations()
