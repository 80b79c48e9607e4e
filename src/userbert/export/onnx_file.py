"""What an exported network's file says of itself, and whether it is whole.

In and out: the bytes of an ONNX file, and `Contents`, which its metadata hold, so that who runs it
needs nothing else. `export.py` writes it, `runtime.py` reads it; neither torch nor onnx is needed.

Metadata go by the names that the same have in a model's folder:

```
userbert.format            1
userbert.version           of the userbert that wrote it
userbert.config.json       the network's size, its inputs, the profile fields that it never saw
userbert.schema.yaml       what the logs meant
userbert.vocabularies.json what the ids mean
userbert.training.json     how it was trained
userbert.task.json         what is asked; not there if it makes vectors alone
userbert.checksum          SHA-256 of all bytes before this line, which is the file's last
```
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError

from userbert.data.batches import INPUT_SHAPE, InputShape
from userbert.data.vocabulary import Vocabularies
from userbert.errors import InputError, ModelError
from userbert.schema.models import Schema
from userbert.tasks.predictions import Asked

FORMAT = 1
_OURS = "userbert."
_AGAIN = " Copy the file again, or export it again."

# Messages of protobuf, of which an ONNX file is one, may be written one behind the other: what is
# appended counts as part of the first. So the checksum is the last entry of the metadata.
_KEY = f"{_OURS}checksum".encode()
_HEX = 64
_ENTRY = b"\x0a" + bytes([len(_KEY)]) + _KEY + b"\x12" + bytes([_HEX])
_SEAL = b"\x72" + bytes([len(_ENTRY) + _HEX]) + _ENTRY
"""What stands before the checksum: an entry of the field 14, `metadata_props`."""


@dataclass(frozen=True)
class Contents:
    """What a file says of itself."""

    config: Mapping[str, Any]
    """The size of the network, as JSON."""
    shape: InputShape
    hidden: tuple[str, ...]
    """Profile fields that it never saw."""
    schema: Schema
    vocabularies: Vocabularies
    record: Mapping[str, Any]
    """How it was trained, as JSON."""
    task: Asked | None
    version: str = version("userbert")
    """Of the userbert that wrote it."""

    def to_metadata(self) -> dict[str, str]:
        """Write as texts by name."""
        config = {
            "model": self.config,
            "input": INPUT_SHAPE.dump_python(self.shape, mode="json"),
            "hidden": self.hidden,
        }
        parts = {
            "format": str(FORMAT),
            "version": self.version,
            "config.json": _text(config),
            "schema.yaml": self.schema.dump(),
            "vocabularies.json": _text(self.vocabularies.to_json()),
            "training.json": _text(self.record),
        }
        if self.task is not None:
            parts["task.json"] = _text(self.task.to_json())
        return {f"{_OURS}{name}": text for name, text in parts.items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], path: Path) -> Self:
        """Read what `to_metadata` wrote; raise `ModelError` if it is damaged or newer."""
        parts = {name.removeprefix(_OURS): text for name, text in metadata.items()}
        if parts.get("format") != str(FORMAT):
            raise ModelError(
                f"{path} has the format {parts.get('format')!r}, this version reads {FORMAT}. "
                f"Install the version of userbert that wrote it ({parts.get('version')})."
            )
        try:
            config = json.loads(parts["config.json"])
            asked = parts.get("task.json")
            return cls(
                config["model"],
                INPUT_SHAPE.validate_python(config["input"]),
                tuple(config["hidden"]),
                Schema.parse(parts["schema.yaml"]),
                Vocabularies.from_json(json.loads(parts["vocabularies.json"])),
                json.loads(parts["training.json"]),
                None if asked is None else Asked.from_json(json.loads(asked)),
                parts["version"],
            )
        except (InputError, ValidationError, LookupError, TypeError, ValueError) as error:
            raise ModelError(f"{path} cannot be read: {error}.{_AGAIN}") from error


def sealed(content: bytes) -> bytes:
    """An ONNX file with its checksum behind it, which stays an ONNX file."""
    return content + _SEAL + hashlib.sha256(content).hexdigest().encode()


def read_sealed(path: Path) -> tuple[bytes, str]:
    """Read a file that `sealed` made, and its checksum.

    Raises `ModelError` if it is missing, damaged or something else.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"{path}: nothing is there. {_MAKE}") from None
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error}.") from error
    told = content[-_HEX:]
    body = memoryview(content)[: -len(_SEAL) - _HEX]
    if content[len(body) : -_HEX] != _SEAL:
        if _OURS.encode() + b"format" in content:
            raise ModelError(f"{path} is not complete.{_AGAIN}")
        raise ModelError(f"{path} is not a file that userbert exported. {_MAKE}")
    if hashlib.sha256(body).hexdigest().encode() != told:
        raise ModelError(f"{path} has changed since it was written.{_AGAIN}")
    return content, told.decode()


_MAKE = "Make one with `userbert export MODEL -o FILE.onnx`."


def _text(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False)
