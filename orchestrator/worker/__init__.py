"""The Worker: a supervisor, and sandboxes that are locked-down containers."""
