"""From raw logs to batches: read, prepare, use. Files at this level serve all three."""
