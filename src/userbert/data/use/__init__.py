"""Reads prepared data: what was visible of a user at a cut-off, in batches."""
