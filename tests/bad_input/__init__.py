"""Input that cannot be used: each ends in one message, and leaves nothing behind."""
