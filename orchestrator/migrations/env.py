"""Alembic's entry point: runs the migrations in `versions/` on the URL that `orchestrator.database` hands over."""

import asyncio

import sqlalchemy
from alembic import context
from sqlalchemy.ext.asyncio import create_async_engine


def run(connection: sqlalchemy.Connection) -> None:
    context.configure(connection=connection, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()


async def run_online(url: str) -> None:
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(run)
    await engine.dispose()


asyncio.run(run_online(context.config.attributes["url"]))
