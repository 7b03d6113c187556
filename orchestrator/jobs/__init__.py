"""The words everybody shares: jobs, slices, input sets, values, metrics. Pure."""
