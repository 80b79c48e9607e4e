"""From raw logs to batches: read, prepare, use. This folder holds what all three share."""
