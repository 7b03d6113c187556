"""The words that scheduler, worker and compute API share about jobs. Pure: no I/O, no clock, no randomness.

`words` names things (run states, capabilities, compute groups, metrics), `values` turns values into URIs and back,
`ranges` are input sets that are computed rather than listed.
"""
