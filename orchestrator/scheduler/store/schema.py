"""Tables of the Scheduler. Jobs have an internal integer key, so that slice rows stay small."""

from __future__ import annotations

import sqlalchemy as sa

from orchestrator.database import metadata

# SQLite gives rowids (and with them cheap keys) only to columns spelt INTEGER.
Key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("key", Key, primary_key=True, autoincrement=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("owner", sa.Text, nullable=False, index=True),
    sa.Column("payment_account", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    # What never changes after submit, as JSON: code, arguments, requirements, public text, result storage.
    sa.Column("spec", sa.Text, nullable=False),
    # {dataRange} or {dataPattern, sliceCount} as JSON; null when inputs are listed in `slice_inputs`.
    sa.Column("input_set", sa.Text),
    sa.Column("closed", sa.Boolean, nullable=False),
    sa.Column("admitted", sa.Boolean, nullable=False),
    sa.Column("local_exec", sa.Boolean, nullable=False),
    # Integer of 10^-18 DCC as decimal text: 64 bit end at 9.2 DCC.
    sa.Column("slice_price", sa.Text, nullable=False),
    # null: all slices belong to the estimation
    sa.Column("estimation_slices", sa.Integer),
    sa.Column("total", sa.BigInteger, nullable=False),
    sa.Column("cursor", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("ready", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("leased", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("accepted", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("failed", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("measured", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("cpu_ms", sa.Float, nullable=False, server_default="0"),
    sa.Column("wall_ms", sa.Float, nullable=False, server_default="0"),
    sa.Column("gpu_ms", sa.Float, nullable=False, server_default="0"),
    sa.Column("in_bytes", sa.Float, nullable=False, server_default="0"),
    sa.Column("out_bytes", sa.Float, nullable=False, server_default="0"),
    # Variances of the above.
    sa.Column("cpu_var", sa.Float, nullable=False, server_default="0"),
    sa.Column("wall_var", sa.Float, nullable=False, server_default="0"),
    sa.Column("gpu_var", sa.Float, nullable=False, server_default="0"),
    sa.Column("in_var", sa.Float, nullable=False, server_default="0"),
    sa.Column("out_var", sa.Float, nullable=False, server_default="0"),
    # Where workers must agree: results that may be paid per slice, that were paid, and slices waiting that have some.
    sa.Column("copies", sa.Integer, nullable=False, server_default="1"),
    sa.Column("paid", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("doubted", sa.BigInteger, nullable=False, server_default="0"),
    # Slices for which money was put into the hold; null: nothing limits them.
    sa.Column("funded", sa.BigInteger),
    sa.Column("heard_at", sa.Float, nullable=False, server_default="0"),
    # Of its code, arguments and listed inputs, wherever they are kept.
    sa.Column("input_characters", sa.BigInteger, nullable=False, server_default="0"),
    # The last pile of listed inputs: a pile that is sent again after a lost answer is recognised by it.
    sa.Column("pile_digest", sa.Text),
    sa.Column("stop_code", sa.Text),
    sa.Column("stop_reason", sa.Text),
    sa.Column("last_error", sa.Text),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("served_at", sa.Float, nullable=False, server_default="0"),
    sa.Column("ended_at", sa.Float, index=True),
    # When what the job left behind was dropped (see `retention`).
    sa.Column("events_dropped_at", sa.Float),
    sa.Column("dropped_at", sa.Float),
    sa.Index("ix_jobs_status", "status"),
)

job_groups = sa.Table(
    "job_groups",
    metadata,
    sa.Column("job", Key, sa.ForeignKey("jobs.key", ondelete="CASCADE"), primary_key=True),
    sa.Column("group_id", sa.Text, primary_key=True),
    sa.Index("ix_job_groups_group", "group_id"),
)

compute_groups = sa.Table(
    "compute_groups",
    metadata,
    # 22 letters and digits. The public group has no row.
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("owner", sa.Text, nullable=False, index=True),
    sa.Column("join_key", sa.Text, unique=True),
    sa.Column("join_hash", sa.Text),
    sa.Column("join_address", sa.Text),
    # What its owner may change, as JSON: name, fees, limits, lists.
    sa.Column("terms", sa.Text, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
)

slice_inputs = sa.Table(
    "slice_inputs",
    metadata,
    sa.Column("job", Key, primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True),
    sa.Column("uri", sa.Text, nullable=False),
    sqlite_with_rowid=False,
)

# Only slices that were leased at least once have a row.
slices = sa.Table(
    "slices",
    metadata,
    sa.Column("job", Key, primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("lease", Key, nullable=False),
    sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
    sa.Column("losses", sa.Integer, nullable=False, server_default="0"),
    # An older lease that lives beside the newest one, else 0.
    sa.Column("rival", Key, nullable=False, server_default="0"),
    # since when it waits again
    sa.Column("ready_at", sa.Float),
    # Results that were heard, where several must agree.
    sa.Column("opinions", sa.Integer, nullable=False, server_default="0"),
    sa.Index(
        "ix_slices_ready",
        "job",
        "number",
        sqlite_where=sa.text("state = 'ready'"),
        postgresql_where=sa.text("state = 'ready'"),
    ),
    sa.Index(
        "ix_slices_out",
        "job",
        "lease",
        sqlite_where=sa.text("state = 'leased'"),
        postgresql_where=sa.text("state = 'leased'"),
    ),
    sa.Index(
        "ix_slices_rival",
        "rival",
        sqlite_where=sa.text("rival > 0"),
        postgresql_where=sa.text("rival > 0"),
    ),
    sqlite_with_rowid=False,
)

slice_results = sa.Table(
    "slice_results",
    metadata,
    sa.Column("job", Key, primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True),
    sa.Column("uri", sa.Text, nullable=False),
    sa.Column("lease", Key, nullable=False),
    sa.Column("accepted_at", sa.Float, nullable=False),
    sqlite_with_rowid=False,
)

slice_failures = sa.Table(
    "slice_failures",
    metadata,
    sa.Column("job", Key, primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True),
    sa.Column("worker", sa.Text, primary_key=True),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("failed_at", sa.Float, nullable=False),
    sqlite_with_rowid=False,
)

# Results of jobs that ask for agreement, while they wait for it and after.
slice_opinions = sa.Table(
    "slice_opinions",
    metadata,
    sa.Column("job", Key, primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True),
    sa.Column("lease", Key, primary_key=True),
    # how many came before it
    sa.Column("place", sa.Integer, nullable=False),
    sa.Column("worker", sa.Text, nullable=False),
    sa.Column("identity", sa.Text, nullable=False),
    sa.Column("payee", sa.Text),
    # of the result's canonical bytes
    sa.Column("digest", sa.Text, nullable=False),
    # The result while it waits; null where another opinion has the same.
    sa.Column("uri", sa.Text),
    # What a compute group takes of its pay; the rate in 10^-18 as decimal text.
    sa.Column("fee_account", sa.Text),
    sa.Column("fee_rate", sa.Text),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("given_at", sa.Float, nullable=False),
    sa.Index(
        "ix_opinions_pending",
        "job",
        sqlite_where=sa.text("state = 'pending'"),
        postgresql_where=sa.text("state = 'pending'"),
    ),
    sqlite_with_rowid=False,
)

# What the opinions of an identity showed an owner of jobs.
worker_trust = sa.Table(
    "worker_trust",
    metadata,
    sa.Column("owner", sa.Text, primary_key=True),
    sa.Column("identity", sa.Text, primary_key=True),
    sa.Column("points", sa.Integer, nullable=False),
    sa.Column("agreed", sa.BigInteger, nullable=False),
    sa.Column("wrong", sa.BigInteger, nullable=False),
    sa.Column("changed_at", sa.Float, nullable=False, index=True),
    sqlite_with_rowid=False,
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("id", Key, primary_key=True, autoincrement=False),
    # Unguessable; a report must carry it.
    sa.Column("token", sa.Text, nullable=False),
    sa.Column("worker", sa.Text, nullable=False, index=True),
    sa.Column("peer", sa.Text, nullable=False),
    sa.Column("payment_address", sa.Text),
    # Keys of the jobs that it covers, separated by spaces.
    sa.Column("jobs", sa.Text, nullable=False),
    sa.Column("opened_at", sa.Float, nullable=False),
    sa.Column("expires_at", sa.Float, nullable=False, index=True),
    # Kept for a while after its end, so that a repeated report still gets the right answer.
    # By when its slices should be done; null for leases of an older version.
    sa.Column("due_at", sa.Float),
    sa.Column("ended", sa.Boolean, nullable=False),
    # What compute groups take of its wages, as JSON {job key: [group, account, rate]}; null when nothing.
    sa.Column("commissions", sa.Text),
    # The worker's own name for the request that it answered; official workers give none.
    sa.Column("request", sa.Text),
)

# Values that were put aside for jobs which have no row yet. When the job comes its intent goes; what is left of those
# that were refused is dropped.
blob_intents = sa.Table(
    "blob_intents",
    metadata,
    sa.Column("job", sa.Text, primary_key=True),
    # whose it is: the last one that began
    sa.Column("token", sa.Text, nullable=False),
    sa.Column("begun_at", sa.Float, nullable=False),
)

# What owners got in each compute group (see `board`), and, under no owner, where the group stands.
owner_accounts = sa.Table(
    "owner_accounts",
    metadata,
    sa.Column("group_id", sa.Text, primary_key=True),
    sa.Column("owner", sa.Text, primary_key=True),
    # weighted core-seconds
    sa.Column("done", sa.Float, nullable=False),
    sa.Column("grown_at", sa.Float, nullable=False, index=True),
)

# Workers that have trouble with a job.
bans = sa.Table(
    "bans",
    metadata,
    sa.Column("job", Key, primary_key=True),
    sa.Column("worker", sa.Text, primary_key=True),
    sa.Column("since", sa.Float, nullable=False, index=True),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("successes", sa.Integer, nullable=False),
    # 0: it may still have the job
    sa.Column("until", sa.Float, nullable=False),
)

# Work that was recently paid, by steps of price.
market = sa.Table(
    "market",
    metadata,
    sa.Column("step", sa.Integer, primary_key=True, autoincrement=False),
    # core-seconds, as they counted at that time
    sa.Column("work_s", sa.Float, nullable=False),
    sa.Column("counted_at", sa.Float, nullable=False),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("id", Key, primary_key=True, autoincrement=False),
    sa.Column("job", Key, nullable=False),
    sa.Column("label", sa.Text, nullable=False),
    # A result event is only this reference to `slice_results`.
    sa.Column("number", sa.BigInteger),
    sa.Column("body", sa.Text),
    sa.Index("ix_events_queue", "job", "label", "id"),
)

# Numbers that only grow and are handed out in commit order (leases, events).
counters = sa.Table(
    "counters",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)
