"""The Scheduler: jobs and slices, and the DCP services around them."""
