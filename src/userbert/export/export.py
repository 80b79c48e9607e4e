"""A network as one ONNX file, which holds all that it takes to run it.

In: a pretrained model, or a task model. Out: a file whose outputs are `vectors` and, of a task,
`scores`. At the end it is run beside the network, and must agree.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from userbert.data.batches import InputShape, SegmentBatch, SegmentShape, UserBatch
from userbert.data.ragged import offsets_of
from userbert.errors import ModelError
from userbert.export.onnx_file import Contents, sealed
from userbert.export.onnx_inputs import Feeding
from userbert.export.onnx_network import Exportable
from userbert.export.runtime import Runtime
from userbert.export.torch_backend import answer
from userbert.folders import publishing_file, require_ending
from userbert.model.userbert import UserBert
from userbert.progress import progress
from userbert.tasks.task_model import TaskModel

OPSET, IR_VERSION = 20, 10
"""Of ONNX: what onnxruntime 1.20, the oldest that is asked for, reads."""
LARGEST_DIFFERENCE = 1e-4
"""Between torch and onnxruntime, in vectors and scores; of what is above 1, as a share of it."""
LARGEST_FILE = 2**31 - 1
"""Bytes of a message of protobuf, which an ONNX file is."""
_TRIED = (1, 2, 64)
"""Users at a time."""


@dataclass(frozen=True)
class Exported:
    """What was written."""

    size: int
    """Bytes of the file."""
    difference: float
    """The largest between torch and onnxruntime, over the sequences that were tried."""


def write_onnx(network: UserBert | TaskModel, output: Path) -> Exported:
    """Write a network as ONNX, whole or not at all.

    Raises `InputError` if the output exists or its name does not end in .onnx, `ModelError` if it
    would exceed 2 GiB, or if onnxruntime does not compute what torch does.
    """
    require_ending(output, ".onnx")
    model = network.user_bert if isinstance(network, TaskModel) else network
    weights = Exportable(network).parameters()
    size = sum(weight.numel() * weight.element_size() for weight in weights)
    if size > LARGEST_FILE:
        raise ModelError(
            f"the network takes {size / 2**30:.1f} GiB, and an ONNX file holds 2. Keep fewer "
            "values of its attributes (max_values in schema.yaml), or run it by torch."
        )
    was_training = network.training
    network.eval()
    try:
        with publishing_file(output) as temporary, progress("exporting", 2) as advance:
            temporary.write_bytes(sealed(onnx_content(network, model)))
            advance(1, "comparing")
            difference = _difference(network, model.shape, temporary)
            advance(1, "")
            if not difference <= LARGEST_DIFFERENCE:
                raise ModelError(
                    f"onnxruntime's vectors differ from torch's by {difference:.2g}, where at most "
                    f"{LARGEST_DIFFERENCE:.0e} was expected; nothing was written. Is another "
                    "version of onnxruntime installed than constraints.txt has?"
                )
            return Exported(temporary.stat().st_size, difference)
    finally:
        network.train(was_training)


def onnx_content(network: UserBert | TaskModel, model: UserBert) -> bytes:
    """The file but for its checksum."""
    graph = Exportable(network)
    example = Feeding(model.shape, summary=model.config.summary, timing=model.config.timing)(
        random_users(model.shape, np.random.default_rng(0), 16)
    )
    tensors = {name: torch.from_numpy(array) for name, array in example.items()}
    with _quietly(), torch.inference_mode():
        program = torch.onnx.export(
            graph,
            kwargs={"feeds": tensors},
            dynamo=True,
            dynamic_shapes={"feeds": {name: graph.dynamic[name] for name in tensors}},
            input_names=list(tensors),
            output_names=["vectors", "scores"][: 1 + (graph.head is not None)],
            opset_version=OPSET,
            verbose=False,
        )
        assert program is not None
        proto = program.model_proto
    proto.ir_version = IR_VERSION
    contents = Contents(
        model.config.model_dump(mode="json"), model.shape, model.hidden, model.schema,
        model.vocabularies, model.record,
        network.asked if isinstance(network, TaskModel) else None,
    )  # fmt: skip
    # Where torch stood when it traced says nothing of the network, but of the machine.
    del proto.metadata_props[:], proto.graph.metadata_props[:]
    for part in (*proto.graph.node, *proto.graph.input, *proto.graph.output):
        del part.metadata_props[:]
    for part in (*proto.graph.value_info, *proto.graph.initializer):
        del part.metadata_props[:]
    proto.producer_name, proto.producer_version = "userbert", contents.version
    for name, text in contents.to_metadata().items():
        proto.metadata_props.add(key=name, value=text)
    return proto.SerializeToString(deterministic=True)  # type: ignore[no-any-return]


def _difference(network: UserBert | TaskModel, shape: InputShape, file: Path) -> float:
    """The largest difference between torch and the file, of random sequences."""
    runtime = Runtime.load(file)
    generator = np.random.default_rng(1)
    worst = 0.0
    for users in _TRIED:
        batch = random_users(shape, generator, users)
        theirs, ours = answer(network, batch), runtime.answer(batch)
        pairs = [(theirs.vectors, ours.vectors)]
        if theirs.scores is not None and ours.scores is not None:
            pairs.append((theirs.scores, ours.scores))
        for expected, found in pairs:
            apart = np.abs(found - expected) / np.maximum(1, np.abs(expected))
            worst = float(np.fmax(worst, apart.max())) if np.isfinite(apart).all() else np.inf
    return worst


def random_users(shape: InputShape, generator: np.random.Generator, users: int) -> UserBatch:
    """Sequences of all lengths: of users without words, of words with a hundred actions."""
    segments = [_random_words(segment, generator, users) for segment in shape.segments]
    fields = [generator.integers(0, field.size, users) for field in shape.profile]
    profile = np.array(fields, np.int32).reshape(len(fields), users).T
    return UserBatch(np.arange(users), tuple(segments), profile)


def _random_words(shape: SegmentShape, generator: np.random.Generator, users: int) -> SegmentBatch:
    counts = generator.integers(0, 6, users)
    sizes = generator.integers(1, 8, counts.sum())
    sizes[generator.random(len(sizes)) < 0.2] *= 20
    ids = [generator.integers(0, attribute.size, sizes.sum()) for attribute in shape.attributes]
    return SegmentBatch(
        shape.name,
        np.array(ids, np.int32),
        offsets_of(sizes),
        offsets_of(counts),
        generator.integers(0, shape.positions, len(sizes)).astype(np.int32),
    )


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what the exporter says to those who write exporters."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
