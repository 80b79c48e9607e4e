"""Placeholder until `userbert init` lands."""

from pathlib import Path


def propose_schema(events: list[Path], profiles: Path | None) -> str:
    """Propose a schema as YAML text."""
    raise NotImplementedError
