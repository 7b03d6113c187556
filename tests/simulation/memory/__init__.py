"""The rows of the stores in memory, for runs with thousands of workers: the services, and all that is under test, are
the same as over SQL, and a seed runs the same steps (see `test_memory.py`)."""
