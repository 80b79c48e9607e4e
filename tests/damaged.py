"""Damages files of a shop, and reads them.

Reading a damaged file must raise the package's own error or give the answer of the intact file;
`outcome` returns which. Tests and `fuzz/fuzz_folders.py` draw the damage.
"""

import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from rich.console import Console

from userbert.data.store import PreparedData
from userbert.data.vocabulary import Vocabularies
from userbert.errors import InputError
from userbert.folders import CARD
from userbert.inspection import inspect
from userbert.model.userbert import UserBert
from userbert.tasks.label_files import LabelsMetadata, checksum_of
from userbert.tasks.labels import Labels
from userbert.tasks.task_model import TaskModel

REFUSED = "refused"


@dataclass(frozen=True)
class Target:
    """A file, and a function that reads it."""

    file: Path
    answer: Callable[[], str]
    """Returns a digest of everything that is read."""
    without_metadata: str | None = None
    """Answer if the damage removed all metadata, which makes the labels look like a user's."""
    is_checked: bool = True
    """Whether damage must be detected; False for text that a user may have written."""


def targets(shop: Path) -> list[Target]:
    """Lists the files that userbert wrote in a shop, and labels that a user wrote."""
    folders: list[tuple[str, Callable[[], str]]] = [
        ("data", lambda: _data(shop / "data")),
        ("model", lambda: _model(UserBert.from_pretrained(shop / "model"))),
        ("task", lambda: _task(shop / "task")),
    ]
    all_targets = [
        Target(file, answer, is_checked=file.name != CARD)
        for name, answer in folders
        for file in sorted((shop / name).rglob("*"))
        if file.is_file()
    ]
    data = PreparedData.open(shop / "data")
    for name in ("return.parquet", "next.parquet"):
        own = Labels.of(pl.read_parquet(shop / name), data, str(shop / name))
        all_targets.append(
            Target(shop / name, _reading(shop / name, data), without_metadata=_digest(own))
        )
        all_targets.append(Target(shop / name, _showing(shop / name)))
    all_targets.append(
        Target(shop / "mine.csv", _reading(shop / "mine.csv", data), is_checked=False)
    )
    all_targets.append(
        Target(shop / "embeddings.parquet", _showing(shop / "embeddings.parquet"), is_checked=False)
    )
    for name in ("data", "model"):
        file = shop / name / "vocabularies.json"
        all_targets.append(Target(file, lambda at=file.parent: Vocabularies.load(at).fingerprint))  # type: ignore[misc]
    return all_targets


def damage(content: bytes, chance: random.Random) -> bytes:
    """Returns content with some bytes flipped, set, cut off, removed, inserted or zeroed."""
    changed = bytearray(content)
    for _ in range(chance.choice([1, 1, 1, 2, 8])):
        place = chance.randrange(len(changed) + 1) if changed else 0
        length = min(chance.choice([1, 1, 2, 4, 64, 1024]), len(changed) - place)
        match chance.randrange(7):
            case 0 | 1 if place < len(changed):
                changed[place] ^= 1 << chance.randrange(8)
            case 2 if place < len(changed):
                changed[place] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, ord("0"), ord('"')])
            case 3:
                del changed[place:]
            case 4:
                del changed[place : place + length]
            case 5:
                changed[place:place] = chance.randbytes(max(length, 1))
            case _:
                changed[place : place + length] = bytes(length)
    return bytes(changed)


@contextmanager
def damaged(file: Path, content: bytes) -> Iterator[None]:
    """Replaces the content of a file inside the context."""
    intact = file.read_bytes()
    file.write_bytes(content)
    try:
        yield
    finally:
        file.write_bytes(intact)


def outcome(target: Target) -> str:
    """Returns the answer, or `REFUSED` for userbert's own error; other errors are raised."""
    try:
        return target.answer()
    except InputError:
        return REFUSED


def _data(path: Path) -> str:
    data = PreparedData.open(path)
    data.verify()
    digest = hashlib.sha256(data.checksum.encode())
    digest.update(data.vocabularies.fingerprint.encode() + data.schema.dump().encode())
    for shard in data.shards:
        digest.update("\0".join(shard.user_ids.to_pylist()).encode())
        for columns in (*shard.segments.values(), shard.profile):
            for values in (columns.offsets, columns.times, *columns.values.values()):
                digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def _model(model: UserBert) -> str:
    about = (model.config, model.shape, model.hidden, sorted(model.record.items()))
    digest = hashlib.sha256(repr(about).encode())
    digest.update(model.vocabularies.fingerprint.encode() + model.schema.dump().encode())
    return _weights(digest.hexdigest(), model)


def _task(path: Path) -> str:
    task = TaskModel.load(path)
    return _weights(_model(task.user_bert) + repr(task.labels) + repr(task.record), task.head)


def _weights(about: str, module: torch.nn.Module) -> str:
    digest = hashlib.sha256(about.encode())
    for name, weight in module.state_dict().items():
        digest.update(name.encode() + weight.numpy().tobytes())
    return digest.hexdigest()


def _reading(file: Path, data: PreparedData) -> Callable[[], str]:
    return lambda: _digest(Labels.load(file, data))


def _digest(labels: Labels) -> str:
    about = LabelsMetadata(
        question=labels.question, kind=labels.kind, classes=labels.classes,
        attribute=labels.attribute, hide=labels.hide, horizon=labels.horizon,
    )  # fmt: skip
    return checksum_of(about, labels.user_ids, labels.cutoffs, labels.targets)


def _showing(path: Path) -> Callable[[], str]:
    def show() -> str:
        console = Console(width=200)
        with console.capture() as capture:
            console.print(inspect(path))
        return capture.get()

    return show
