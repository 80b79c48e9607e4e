"""Vectors of who users are, learned from logs of what they do."""
