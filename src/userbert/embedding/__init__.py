"""Vectors of many users: made in bulk, written, and read again."""
