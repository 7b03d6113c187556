"""The Scheduler's statements: the only place in this package that knows SQL.

Every function takes the caller's connection, so that a state change and the money it moves share one transaction.
The same statements run on SQLite and PostgreSQL.
"""
