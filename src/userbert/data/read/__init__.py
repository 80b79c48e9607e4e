"""Reads logs: opens files, checks each row, accounts for it."""
