"""Alembic's entry point: runs the migrations in `versions/` on the connection that `running` hands over."""

from alembic import context

if context.is_offline_mode():
    context.configure(dialect_name="postgresql")
else:
    context.configure(
        connection=context.config.attributes["connection"], render_as_batch=True, transaction_per_migration=True
    )
with context.begin_transaction():
    context.run_migrations()
