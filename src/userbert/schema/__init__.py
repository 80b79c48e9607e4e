"""What a log means: the schema, its inference, and the files it names."""

from userbert.schema.models import Schema

__all__ = ["Schema"]
