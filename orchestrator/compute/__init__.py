"""The Python compute API: deploy a job to a Scheduler and collect its results."""
