"""Events and leases get their numbers from sequences: writers do not wait for one another.

A process of the version before goes on counting in rows, beside us: triggers give it numbers of the sequences.
"""

from alembic import op

revision = "0013_numbers"
down_revision = "0012_bank_ethereum"
branch_labels = None
depends_on = None

# Ids of events below it are those of the version before.
_FIRST = 2**40
_QUEUES = 0x0DC9_E7E7

_STEPS = (
    "CREATE SEQUENCE event_ids",
    f"""
    SELECT setval('event_ids', {_FIRST} + (
        SELECT greatest((SELECT max(id) FROM events), (SELECT value FROM counters WHERE name = 'event'), 0)))
    """,  # noqa: S608 — a number of ours
    "CREATE SEQUENCE lease_ids",
    """
    SELECT setval('lease_ids', (
        SELECT greatest((SELECT max(id) FROM leases), (SELECT value FROM counters WHERE name = 'lease'), 1)))
    """,
    "INSERT INTO counters (name, value) VALUES ('lease', 0) ON CONFLICT DO NOTHING",
    f"""
    CREATE FUNCTION number_old_events() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_current_xact_id();
        PERFORM pg_advisory_xact_lock({_QUEUES}, (NEW.job % 2147483648)::int);
        NEW.id := nextval('event_ids');
        RETURN NEW;
    END $$
    """,
    f"""
    CREATE TRIGGER old_events BEFORE INSERT ON events
        FOR EACH ROW WHEN (NEW.id < {_FIRST}) EXECUTE FUNCTION number_old_events()
    """,
    """
    CREATE FUNCTION number_old_leases() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        NEW.value := nextval('lease_ids');
        RETURN NEW;
    END $$
    """,
    """
    CREATE TRIGGER old_leases BEFORE UPDATE ON counters
        FOR EACH ROW WHEN (NEW.name = 'lease') EXECUTE FUNCTION number_old_leases()
    """,
)


def upgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        # Nobody draws a number between what is read here and the triggers.
        op.execute("LOCK TABLE counters, events IN SHARE ROW EXCLUSIVE MODE")
        for step in _STEPS:
            op.execute(step)


def downgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        op.execute("UPDATE counters SET value = (SELECT last_value FROM event_ids) WHERE name = 'event'")
        op.execute("DROP TRIGGER old_leases ON counters")
        op.execute("DROP TRIGGER old_events ON events")
        op.execute("UPDATE counters SET value = (SELECT last_value FROM lease_ids) WHERE name = 'lease'")
        op.execute("DROP FUNCTION number_old_leases, number_old_events")
        op.execute("DROP SEQUENCE event_ids")
        op.execute("DROP SEQUENCE lease_ids")
