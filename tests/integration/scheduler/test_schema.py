from __future__ import annotations

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

import orchestrator.scheduler.store.schema as schema
from orchestrator.database import Database, metadata


async def test_the_migrations_make_what_the_code_declares(database_url: str) -> None:
    database = await Database.open(database_url)

    def differences(connection: sa.Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        return list(compare_metadata(context, metadata))

    def indexes(connection: sa.Connection) -> set[str]:
        return {str(one["name"]) for one in sa.inspect(connection).get_indexes(schema.slices.name)}

    async with database.snapshot() as tx:
        assert await tx.run_sync(differences) == []
        # Partial indexes are not compared by Alembic on SQLite.
        assert await tx.run_sync(indexes) == {str(one.name) for one in schema.slices.indexes}
    await database.close()
