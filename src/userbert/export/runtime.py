"""Runs an exported network with onnxruntime, without torch.

In: a file that `userbert export` wrote, and histories from prepared data or raw events. Out: user
vectors and scores. The functions that cut histories and look up ids are also those of training with
torch, so both see equal inputs. Public as `userbert.Runtime`.

Letters in shapes: B users, C classes of a task.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Self

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from userbert.data.batches import UserBatch
from userbert.data.ragged import Int64
from userbert.data.store import Histories, PreparedData
from userbert.data.use.live import LiveHistories, UserEvents, live_histories
from userbert.data.use.loading import batches_by_length, batches_in_order, check_fits
from userbert.data.vocabulary import Vocabularies
from userbert.errors import InputError, ModelError
from userbert.export.backend import BATCH_SIZE, Answer, RunsOn, WordLocation, collect_answers
from userbert.export.onnx_file import NetworkMetadata, read_checked
from userbert.export.onnx_inputs import InputEncoder
from userbert.schema.models import Schema
from userbert.tasks.predictions import TaskSpec
from userbert.workers import cores

_LOG_ERRORS_ONLY = 3
"""Log level of onnxruntime that shows errors and hides warnings."""
_NEEDS_TORCH = (
    "model: {name} is an exported network, which cannot compute {result}. Serve its folder "
    "instead: userbert serve FOLDER --data DATA --backend torch"
)


class Runtime:
    """An exported network with its schema and vocabularies; a `Backend`."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        metadata: NetworkMetadata,
        name: str,
        checksum: str,
    ) -> None:
        self.name, self.checksum = name, checksum
        self._session, self._metadata = session, metadata
        self._encode = InputEncoder(
            metadata.shape,
            summary=bool(metadata.config["summary"]),
            # Files from before timing existed do not have the key.
            timing=bool(metadata.config.get("timing")),
        )
        self._width = int(session.get_outputs()[0].shape[1])

    @classmethod
    def load(cls, path: str | Path, *, threads: int | None = None) -> Self:
        """Loads a file, to run on `threads` threads (default: one per available core).

        Raises `ModelError` if the file is missing, damaged, of another format or not an export.
        """
        path = Path(path)
        content, checksum = read_checked(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or cores()
        # Threads that spin while they wait slow down other work on the machine, and vice versa:
        # next to other work, a batch of 64 users took twice as long.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.use_deterministic_compute = True
        options.log_severity_level = _LOG_ERRORS_ONLY
        try:
            session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
            texts = session.get_modelmeta().custom_metadata_map
        except Exception as error:  # onnxruntime's errors have no other base
            raise ModelError(
                f"{path}: onnxruntime {onnxruntime.__version__} cannot read it: {error}. "
                "Install another version of onnxruntime, or export the network again."
            ) from error
        return cls(session, NetworkMetadata.from_metadata(texts, path), path.stem, checksum)

    @property
    def runs_on(self) -> RunsOn:
        """Library that runs the network."""
        return "onnx"

    @property
    def version(self) -> str:
        """Version of userbert that wrote the file."""
        return self._metadata.version

    @property
    def record(self) -> Mapping[str, Any]:
        """How the network was trained."""
        return self._metadata.record

    @property
    def schema(self) -> Schema:
        """Schema of the logs that the network was trained on."""
        return self._metadata.schema

    @property
    def vocabularies(self) -> Vocabularies:
        """Vocabularies that map values to the ids that the network reads."""
        return self._metadata.vocabularies

    @property
    def hidden(self) -> tuple[str, ...]:
        """Profile fields that the network does not read."""
        return self._metadata.hidden

    @property
    def width(self) -> int:
        """Width of user vectors."""
        return self._width

    @property
    def task(self) -> TaskSpec | None:
        """Specification of the task; None for a model without a task."""
        return self._metadata.task

    def histories(
        self, users: Sequence[UserEvents], cutoffs: Int64 | None = None
    ) -> tuple[LiveHistories, Int64]:
        """Returns histories of raw events, and the row number of each user (B,) in them.

        The row number is -1 for a user without a usable event. With `cutoffs` (B,), in microseconds
        since 1970, the events of each user must be earlier than the user's cut-off. Raises
        `InputError` for an invalid event, and names the user, the event, the expected value and the
        value found.
        """
        return live_histories(self.schema, self.vocabularies, users, cutoffs)

    def embed(self, data: Histories, rows: Int64, cutoffs: Int64) -> NDArray[np.float32]:
        """Returns user vectors (B, width) of (user, cut-off) pairs, in order.

        `rows` (B,) are row numbers in `data`, `cutoffs` (B,) are in microseconds since 1970. Raises
        `ModelError` if ids or segments of the data differ from the model's.
        """
        return self._run_by_length(data, rows, cutoffs, "embedding").vectors

    def scores(self, data: Histories, rows: Int64, cutoffs: Int64) -> NDArray[np.float32]:
        """Returns scores of (user, cut-off) pairs, (B,) or (B, C), as in `Answer.scores`.

        Parameters are as for `embed`. Raises `InputError` if the file holds a model without a task,
        `ModelError` as `embed` does.
        """
        scores = self._run_by_length(data, rows, cutoffs, "scoring").scores
        if scores is None:
            raise InputError(
                f"{self.name} is a model without a task, so it has no scores. Make a task: "
                "userbert finetune MODEL DATA --labels FILE -o TASK, then userbert export TASK"
            )
        return scores

    def run(self, data: Histories, rows: Int64, cutoffs: Int64) -> Answer:
        """Returns the answer for (user, cut-off) pairs, without a progress bar; see `Backend`."""
        self._check_fits(data)
        batches = batches_in_order(data, rows, cutoffs, batch_size=BATCH_SIZE, hidden=self.hidden)
        return collect_answers(self, self.answer, batches, len(rows))

    def expect(self, data: PreparedData, location: WordLocation, best: int) -> NoReturn:
        """Raises `InputError`: an exported file has no pretraining heads. See `Backend`."""
        raise InputError(
            _NEEDS_TORCH.format(name=self.name, result="the likely values of a hidden word")
        )

    def explain(self, data: PreparedData, user: str, cutoff: int, value: str | None) -> NoReturn:
        """Raises `InputError`: explanations need torch. See `Backend`."""
        raise InputError(_NEEDS_TORCH.format(name=self.name, result="explanations of scores"))

    def answer(self, batch: UserBatch) -> Answer:
        """Returns the answer for a batch of at least one user."""
        vectors, *scores = self._session.run(None, self._encode(batch))
        return Answer(vectors, scores[0] if scores else None)

    def _run_by_length(
        self, data: Histories, rows: Int64, cutoffs: Int64, description: str
    ) -> Answer:
        """Returns the answer for many pairs, in batches of similar length that need less padding.

        A progress bar is called `description`.
        """
        self._check_fits(data)
        batches = batches_by_length(
            data, rows, cutoffs, batch_size=BATCH_SIZE, hidden=self.hidden, description=description
        )
        return collect_answers(self, self.answer, batches, len(rows))

    def _check_fits(self, data: Histories) -> None:
        """Raises `ModelError` if ids or segments of the data differ from the model's."""
        check_fits(data, self.vocabularies, self._metadata.shape, self.hidden)
