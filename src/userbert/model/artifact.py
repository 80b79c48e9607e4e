"""Reads and writes model folders, which contain all that a model needs.

In and out: `Artifact`, the parts of a model. `UserBert` saves and loads itself as an `Artifact`.

```
MODEL/
  summary.json         format, version, checksums of all files but README.md
  config.json          the network's settings, its inputs, its hidden profile fields
  model.safetensors    its weights
  schema.yaml          the schema of the logs
  vocabularies.json    the values of the ids
  training.json        how it was trained
  metrics.jsonl        losses by step, if `pretrain` wrote the folder
  README.md            the model card, without a checksum because people may edit it
```
Nothing is unpickled, so a folder from an untrusted source cannot run code.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from userbert.data.batches import INPUT_SHAPE, InputShape
from userbert.data.vocabulary import Vocabularies
from userbert.errors import InputError, ModelError
from userbert.folders import (
    CARD,
    check_summary,
    describe_path,
    read_json,
    write_json,
    write_summary,
)
from userbert.model.model_card import model_card
from userbert.schema.models import Schema

FORMAT = 1
"""Version of the format of model folders."""
_FILES = ("config.json", "model.safetensors", "schema.yaml", "training.json", "vocabularies.json")
"""Files that every model folder has next to its summary."""


@dataclass(frozen=True)
class Artifact:
    """The parts of a model."""

    config: Mapping[str, Any]
    """Settings of the network (`UserBertConfig`), as JSON."""
    shape: InputShape
    """Attributes and sizes of the inputs."""
    hidden: tuple[str, ...]
    """Profile fields that the model never reads."""
    schema: Schema
    """Schema of the training logs."""
    vocabularies: Vocabularies
    """Values of the ids."""
    record: Mapping[str, Any]
    """Record of the training, as JSON."""
    weights: Mapping[str, Tensor]
    """Weights of the network, by name in its state dict."""


def write_artifact(folder: Path, artifact: Artifact, *, with_card: bool = True) -> None:
    """Writes a model into an existing folder, with its model card if `with_card`.

    Files that are already in the folder become part of the model.
    """
    config = {
        "model": artifact.config,
        "input": INPUT_SHAPE.dump_python(artifact.shape, mode="json"),
        "hidden": artifact.hidden,
    }
    write_json(folder / "config.json", config)
    (folder / "schema.yaml").write_text(artifact.schema.dump(), encoding="utf-8")
    write_json(folder / "vocabularies.json", artifact.vocabularies.to_json())
    write_json(folder / "training.json", artifact.record)
    weights = {name: tensor.detach().contiguous() for name, tensor in artifact.weights.items()}
    save_tensors(weights, folder / "model.safetensors")
    if with_card:
        weight_count = sum(tensor.numel() for tensor in weights.values())
        text = model_card(config, artifact.record, artifact.schema, weight_count)
        (folder / CARD).write_text(text, encoding="utf-8")
    write_summary(folder, "model", format=FORMAT)


def read_artifact(folder: Path) -> Artifact:
    """Reads a model. Raises `ModelError` if it is missing, damaged, or in another format."""
    _check_folder(folder)
    try:
        config = read_json(folder / "config.json")
        return Artifact(
            config["model"],
            INPUT_SHAPE.validate_python(config["input"]),
            tuple(config["hidden"]),
            Schema.load(folder / "schema.yaml"),
            Vocabularies.from_json(read_json(folder / "vocabularies.json")),
            read_json(folder / "training.json"),
            load_file(folder / "model.safetensors"),
        )
    except (InputError, SafetensorError, ValidationError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{folder} is not a readable model: {error}.") from error


def save_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Writes tensors as safetensors. Raises `OSError` if they cannot be written."""
    try:
        save_file(dict(tensors), file)
    except SafetensorError as error:  # not an OSError, but its text has the error number
        raise OSError(str(error)) from error


def _check_folder(folder: Path) -> None:
    """Raises `ModelError` if `folder` is not a model or a file does not match its checksum."""
    if not (folder / "summary.json").is_file() or not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} is not a model folder (summary.json or config.json is missing; "
            f"{describe_path(folder)}). "
            "Make one with `userbert pretrain DATA -o MODEL`."
        )
    check_summary(folder, FORMAT, _FILES)
