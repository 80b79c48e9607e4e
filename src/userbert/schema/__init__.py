"""What a log means: the schema, and the files that it names."""

from userbert.schema.models import Schema

__all__ = ["Schema"]
