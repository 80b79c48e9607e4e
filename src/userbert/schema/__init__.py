"""The schema: what a log means, and how its files are opened."""

from userbert.schema.models import Schema

__all__ = ["Schema"]
