"""Writes a network as one self-contained ONNX file.

In: a `UserBert` or a `TaskModel`. Out: a file whose network has the outputs `vectors` and, for a
task, `scores`. Before the file is published, its outputs are compared with torch's outputs.
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
from userbert.export.onnx_file import NetworkMetadata, add_checksum
from userbert.export.onnx_inputs import InputEncoder
from userbert.export.onnx_network import OnnxNetwork
from userbert.export.runtime import Runtime
from userbert.export.torch_backend import answer_batch
from userbert.folders import publishing_file, require_ending
from userbert.model.userbert import UserBert
from userbert.progress import progress
from userbert.tasks.task_model import TaskModel

OPSET, IR_VERSION = 20, 10
"""Versions of ONNX operators and of the file format, which onnxruntime 1.20, the oldest supported
version, can read."""
MAX_DIFFERENCE = 1e-4
"""Maximum accepted difference between outputs of torch and onnxruntime: absolute for outputs up to
1, relative for larger outputs."""
MAX_FILE_SIZE = 2**31 - 1
"""Maximum size in bytes of the weights: an ONNX file is a protobuf message of less than 2 GiB."""
_COMPARED_SIZES = (1, 2, 64)
"""Number of users in each random batch for which outputs are compared."""


@dataclass(frozen=True)
class ExportedFile:
    """Size and accuracy of a written file."""

    size: int
    """Bytes of the file."""
    difference: float
    """Largest difference between outputs of torch and onnxruntime for random user sequences; see
    `MAX_DIFFERENCE`."""


def write_onnx(
    network: UserBert | TaskModel, output: Path, *, max_size: int = MAX_FILE_SIZE
) -> ExportedFile:
    """Writes a network as an ONNX file, complete or not at all.

    Raises `InputError` if `output` exists or its name does not end in .onnx, `ModelError` if the
    weights exceed `max_size` bytes or onnxruntime's outputs differ from torch's.
    """
    require_ending(output, ".onnx")
    model = network.user_bert if isinstance(network, TaskModel) else network
    weights = OnnxNetwork(network).parameters()
    size = sum(weight.numel() * weight.element_size() for weight in weights)
    if size > max_size:
        raise ModelError(
            f"the network takes {size / 2**30:.1f} GiB, and an ONNX file holds at most 2. Keep "
            "fewer values of its attributes (max_values in schema.yaml), or run it with torch."
        )
    was_training = network.training
    network.eval()
    try:
        with publishing_file(output) as temporary, progress("exporting", 2) as advance:
            temporary.write_bytes(add_checksum(onnx_content(network, model)))
            advance(1, "comparing")
            difference = _largest_difference(network, model.shape, temporary)
            advance(1, "")
            if not difference <= MAX_DIFFERENCE:
                raise ModelError(
                    f"onnxruntime's outputs differ from torch's by {difference:.2g}, where at most "
                    f"{MAX_DIFFERENCE:.0e} was expected; nothing was written. Install the "
                    "version of onnxruntime that constraints.txt names."
                )
            return ExportedFile(temporary.stat().st_size, difference)
    finally:
        network.train(was_training)


def onnx_content(network: UserBert | TaskModel, model: UserBert) -> bytes:
    """Returns the content of the ONNX file of `network`, without the checksum.

    `model` is the network itself, or the model inside a task model.
    """
    graph = OnnxNetwork(network)
    example = InputEncoder(model.shape, summary=model.config.summary, timing=model.config.timing)(
        random_batch(model.shape, np.random.default_rng(0), 16)
    )
    tensors = {name: torch.from_numpy(array) for name, array in example.items()}
    with _quietly(), torch.inference_mode():
        program = torch.onnx.export(
            graph,
            kwargs={"feeds": tensors},
            dynamo=True,
            dynamic_shapes={"feeds": {name: graph.dynamic_shapes[name] for name in tensors}},
            input_names=list(tensors),
            output_names=["vectors", "scores"][: 1 + (graph.head is not None)],
            opset_version=OPSET,
            verbose=False,
        )
        assert program is not None
        proto = program.model_proto
    proto.ir_version = IR_VERSION
    metadata = NetworkMetadata(
        model.config.model_dump(mode="json"), model.shape, model.hidden, model.schema,
        model.vocabularies, model.record,
        network.spec if isinstance(network, TaskModel) else None,
    )  # fmt: skip
    # torch stores stack traces here, with paths of this machine.
    del proto.metadata_props[:], proto.graph.metadata_props[:]
    for element in (*proto.graph.node, *proto.graph.input, *proto.graph.output):
        del element.metadata_props[:]
    for element in (*proto.graph.value_info, *proto.graph.initializer):
        del element.metadata_props[:]
    proto.producer_name, proto.producer_version = "userbert", metadata.version
    for name, text in metadata.to_metadata().items():
        proto.metadata_props.add(key=name, value=text)
    return proto.SerializeToString(deterministic=True)  # type: ignore[no-any-return]


def _largest_difference(network: UserBert | TaskModel, shape: InputShape, file: Path) -> float:
    """Returns the largest difference between outputs of torch and of the file, for random users.

    Returns infinity if an output is NaN or infinite.
    """
    runtime = Runtime.load(file)
    generator = np.random.default_rng(1)
    largest = 0.0
    for users in _COMPARED_SIZES:
        batch = random_batch(shape, generator, users)
        by_torch, by_onnx = answer_batch(network, batch), runtime.answer(batch)
        pairs = [(by_torch.vectors, by_onnx.vectors)]
        if by_torch.scores is not None and by_onnx.scores is not None:
            pairs.append((by_torch.scores, by_onnx.scores))
        for expected, actual in pairs:
            differences = np.abs(actual - expected) / np.maximum(1, np.abs(expected))
            largest = (
                float(np.fmax(largest, differences.max()))
                if np.isfinite(differences).all()
                else np.inf
            )
    return largest


def random_batch(shape: InputShape, generator: np.random.Generator, users: int) -> UserBatch:
    """Returns random sequences of 0 to 5 words per segment, and of 1 to 140 actions per word."""
    segments = [_random_segment(segment, generator, users) for segment in shape.segments]
    fields = [generator.integers(0, field.size, users) for field in shape.profile]
    profile = np.array(fields, np.int32).reshape(len(fields), users).T
    return UserBatch(np.arange(users), tuple(segments), profile)


def _random_segment(
    shape: SegmentShape, generator: np.random.Generator, users: int
) -> SegmentBatch:
    """Returns random words of one segment."""
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
    """Silences logs and warnings of torch's exporter, which only its developers can act on."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
