"""Metadata and checksum of an exported network's file.

In and out: the bytes of an ONNX file, and the `NetworkMetadata` in the file. With these metadata
the file needs no model folder. `export.py` writes them, `runtime.py` reads them. Imports neither
torch nor onnx.

Entries of the metadata are named after the corresponding files of a model or task folder:

```
userbert.format            1
userbert.version           version of userbert that wrote the file
userbert.config.json       size and inputs of the network, and profile fields that it does not read
userbert.schema.yaml       schema of the logs
userbert.vocabularies.json vocabularies that map values to ids
userbert.training.json     how the network was trained
userbert.task.json         specification of the task; missing for a model without a task
userbert.checksum          SHA-256 of all bytes before this entry, which is the file's last
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
from userbert.tasks.predictions import TaskSpec

FORMAT = 1
"""Version of the metadata's layout."""
_PREFIX = "userbert."
"""Prefix of all names of metadata."""
_REMEDY = " Copy the file again, or export it again."

# An ONNX file is a protobuf message, and fields appended to a message become part of it. So the
# checksum is appended as the last entry of the metadata.
_KEY = f"{_PREFIX}checksum".encode()
_HEX_DIGITS = 64
"""Number of hexadecimal digits of a SHA-256."""
# Protobuf tags and lengths: field 1 (key), then field 2 (value).
_ENTRY = b"\x0a" + bytes([len(_KEY)]) + _KEY + b"\x12" + bytes([_HEX_DIGITS])
_CHECKSUM_PREFIX = b"\x72" + bytes([len(_ENTRY) + _HEX_DIGITS]) + _ENTRY
"""Bytes before the checksum: start of an entry of the message's field 14, `metadata_props`."""


@dataclass(frozen=True)
class NetworkMetadata:
    """Metadata of an exported network: all that a model folder holds but the weights."""

    config: Mapping[str, Any]
    """Configuration of the model, as JSON."""
    shape: InputShape
    """Attributes and profile fields that the network reads."""
    hidden: tuple[str, ...]
    """Profile fields hidden from the network."""
    schema: Schema
    """Schema of the logs that the network was trained on."""
    vocabularies: Vocabularies
    """Vocabularies that map values to the ids that the network reads."""
    record: Mapping[str, Any]
    """How the network was trained, as JSON."""
    task: TaskSpec | None
    """Specification of the task; None for a model without a task."""
    version: str = version("userbert")
    """Version of userbert that wrote the file."""

    def to_metadata(self) -> dict[str, str]:
        """Returns the text of each entry by its name."""
        config = {
            "model": self.config,
            "input": INPUT_SHAPE.dump_python(self.shape, mode="json"),
            "hidden": self.hidden,
        }
        texts = {
            "format": str(FORMAT),
            "version": self.version,
            "config.json": _json_text(config),
            "schema.yaml": self.schema.dump(),
            "vocabularies.json": _json_text(self.vocabularies.to_json()),
            "training.json": _json_text(self.record),
        }
        if self.task is not None:
            texts["task.json"] = _json_text(self.task.to_json())
        return {f"{_PREFIX}{name}": text for name, text in texts.items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], path: Path) -> Self:
        """Reads the result of `to_metadata`.

        Raises `ModelError`, which names `path`, if `metadata` is damaged or of another format.
        """
        texts = {name.removeprefix(_PREFIX): text for name, text in metadata.items()}
        if texts.get("format") != str(FORMAT):
            raise ModelError(
                f"{path} has the format {texts.get('format')!r}, this version reads {FORMAT}. "
                f"Install the version of userbert that wrote it ({texts.get('version')})."
            )
        try:
            config = json.loads(texts["config.json"])
            task = texts.get("task.json")
            return cls(
                config["model"],
                INPUT_SHAPE.validate_python(config["input"]),
                tuple(config["hidden"]),
                Schema.parse(texts["schema.yaml"]),
                Vocabularies.from_json(json.loads(texts["vocabularies.json"])),
                json.loads(texts["training.json"]),
                None if task is None else TaskSpec.from_json(json.loads(task)),
                texts["version"],
            )
        except (InputError, ValidationError, LookupError, TypeError, ValueError) as error:
            raise ModelError(f"{path} cannot be read: {error}.{_REMEDY}") from error


def add_checksum(content: bytes) -> bytes:
    """Returns ONNX content with its checksum appended; the result is still an ONNX file."""
    return content + _CHECKSUM_PREFIX + hashlib.sha256(content).hexdigest().encode()


def read_checked(path: Path) -> tuple[bytes, str]:
    """Returns the content and the checksum of an exported file.

    Raises `ModelError` if the file is missing, damaged or not exported by userbert.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"{path}: nothing is there. {_HOW_TO_EXPORT}") from None
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error}.") from error
    stored_checksum = content[-_HEX_DIGITS:]
    body = memoryview(content)[: -len(_CHECKSUM_PREFIX) - _HEX_DIGITS]
    if content[len(body) : -_HEX_DIGITS] != _CHECKSUM_PREFIX:
        if _PREFIX.encode() + b"format" in content:
            raise ModelError(f"{path} is not complete.{_REMEDY}")
        raise ModelError(f"{path} is not a file that userbert exported. {_HOW_TO_EXPORT}")
    if hashlib.sha256(body).hexdigest().encode() != stored_checksum:
        raise ModelError(f"{path} has changed since it was written.{_REMEDY}")
    return content, stored_checksum.decode()


_HOW_TO_EXPORT = "Write a file with `userbert export MODEL -o FILE.onnx`."
"""Advice if a file is missing or is not an export."""


def _json_text(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False)
