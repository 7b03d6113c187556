"""Getting what jobs need from outside, and taking results to where jobs want them: the worker's only way out.

Pure: `addresses`, `backoff`, `cache`, `failures`. Shells: `web` (HTTP), `files`, `fetcher` (what the worker calls).
"""
