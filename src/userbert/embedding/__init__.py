"""Embeds users in bulk, and writes and reads the vectors."""
