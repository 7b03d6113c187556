"""The schema and how it came to be: one step after the other, forward only."""
