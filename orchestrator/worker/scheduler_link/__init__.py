"""The worker's end of the Scheduler: asks for work, and delivers what the supervisor decided until it is acknowledged.

Pure: `lost_answers`. Shells, one for each kind of word: `task_requests`, `deliveries` (results), `statuses` (begun and
returned slices), `emissions` (events of slices), `orders` (what the Scheduler says unasked), `package_manager`. `link`
holds them together.

Results and returned slices are kept until the Scheduler has answered, across lost transports and lost sessions; results
also across the worker's own death (see `outbox`). The Scheduler takes each once, so sending again is safe. Requests
that are made at the same time share one signed message (see `protocol`).
"""
