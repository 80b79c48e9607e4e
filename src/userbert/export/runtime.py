"""An exported network, run by onnxruntime: without torch.

In: a file of `export`, and histories, of prepared data or of raw events. Out: user vectors and
scores. It reads what users did by the same cuts and the same lookups as the network that was
exported. Public as `userbert.Runtime`.
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
from userbert.data.use.loading import check_fits, in_length_order, in_turn
from userbert.data.vocabulary import Vocabularies
from userbert.errors import InputError, ModelError
from userbert.export.backend import BATCH, Answer, Place, RunsOn, gathered
from userbert.export.onnx_file import Contents, read_sealed
from userbert.export.onnx_inputs import Feeding
from userbert.schema.models import Schema
from userbert.tasks.predictions import Asked
from userbert.workers import cores

_ERRORS_ALONE = 3
_ONLY_TORCH = (
    "model: {1} is an exported network, which cannot tell {0}. Serve its folder: "
    "userbert serve FOLDER --data DATA --backend torch"
)


class Runtime:
    """A network that `userbert export` wrote, and all it needs to read data; a `Backend`."""

    def __init__(
        self, session: onnxruntime.InferenceSession, contents: Contents, name: str, checksum: str
    ) -> None:
        self.name, self.checksum = name, checksum
        self._session, self._contents = session, contents
        self._feeds = Feeding(
            contents.shape,
            summary=bool(contents.config["summary"]),
            # Networks that were exported before there was timing do not name it.
            timing=bool(contents.config.get("timing")),
        )
        self._width = int(session.get_outputs()[0].shape[1])

    @classmethod
    def load(cls, path: str | Path, *, threads: int | None = None) -> Self:
        """Load a file, to run on so many threads (default: the cores that we may use).

        Raises `ModelError` if the file is missing, damaged, of a newer format or something else.
        """
        path = Path(path)
        content, checksum = read_sealed(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or cores()
        # Threads that wait by spinning take the time of whatever else runs: beside other work a
        # batch of 64 took twice as long.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.use_deterministic_compute = True
        options.log_severity_level = _ERRORS_ALONE
        try:
            session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
            metadata = session.get_modelmeta().custom_metadata_map
        except Exception as error:  # its errors have no other base
            raise ModelError(
                f"{path}: onnxruntime {onnxruntime.__version__} cannot read it: {error}. "
                "Install another version of it, or export the network again."
            ) from error
        return cls(session, Contents.from_metadata(metadata, path), path.stem, checksum)

    @property
    def runs_on(self) -> RunsOn:
        """What computes."""
        return "onnx"

    @property
    def version(self) -> str:
        """Of the userbert that wrote it."""
        return self._contents.version

    @property
    def record(self) -> Mapping[str, Any]:
        """How the network was trained."""
        return self._contents.record

    @property
    def schema(self) -> Schema:
        """What logs mean."""
        return self._contents.schema

    @property
    def vocabularies(self) -> Vocabularies:
        """What ids mean."""
        return self._contents.vocabularies

    @property
    def hidden(self) -> tuple[str, ...]:
        """Profile fields that it does not see."""
        return self._contents.hidden

    @property
    def width(self) -> int:
        """Of user vectors."""
        return self._width

    @property
    def task(self) -> Asked | None:
        """What is asked; none: it makes vectors alone."""
        return self._contents.task

    def histories(
        self, users: Sequence[UserEvents], cutoffs: Int64 | None = None
    ) -> tuple[LiveHistories, Int64]:
        """Histories of raw events, and (B,) the row of each user, -1 of one without a usable event.

        With `cutoffs` (B,), microseconds since 1970, all events must lie before them. Raises
        `InputError` that names the user, the event, what was expected and found.
        """
        return live_histories(self.schema, self.vocabularies, users, cutoffs)

    def embed(self, data: Histories, rows: Int64, cutoffs: Int64) -> NDArray[np.float32]:
        """User vectors (B, width) of (user, cut-off) pairs: rows and cut-offs are (B,).

        A cut-off is in microseconds since 1970. Raises `ModelError` if the data have other ids than
        the model.
        """
        return self._all(data, rows, cutoffs, "embedding").vectors

    def scores(self, data: Histories, rows: Int64, cutoffs: Int64) -> NDArray[np.float32]:
        """Scores of (user, cut-off) pairs, as `TaskModel.scores` gives them: (B,) or (B, C).

        Raises `InputError` if the file holds a model without a task, and as `embed` does.
        """
        scores = self._all(data, rows, cutoffs, "scoring").scores
        if scores is None:
            raise InputError(
                f"{self.name} is a model, which makes vectors alone. Scores are those of a task: "
                "userbert finetune MODEL DATA --labels FILE -o TASK, then userbert export TASK"
            )
        return scores

    def run(self, data: Histories, rows: Int64, cutoffs: Int64) -> Answer:
        """Answer for a few (user, cut-off) pairs at once; see `Backend`."""
        self._check(data)
        batches = in_turn(data, rows, cutoffs, batch_size=BATCH, hidden=self.hidden)
        return gathered(self, self.answer, batches, len(rows))

    def expect(self, data: PreparedData, place: Place, best: int) -> NoReturn:
        """Refuse: what a network expects is not among what is exported; see `Backend`."""
        raise InputError(_ONLY_TORCH.format("what it expects in a word", self.name))

    def explain(self, data: PreparedData, user: str, cutoff: int, value: str | None) -> NoReturn:
        """Refuse: it takes the network itself; see `Backend`."""
        raise InputError(_ONLY_TORCH.format("what moved a score", self.name))

    def answer(self, batch: UserBatch) -> Answer:
        """Answer for a batch of at least one user."""
        vectors, *scores = self._session.run(None, self._feeds(batch))
        return Answer(vectors, scores[0] if scores else None)

    def _all(self, data: Histories, rows: Int64, cutoffs: Int64, description: str) -> Answer:
        self._check(data)
        batches = in_length_order(
            data, rows, cutoffs, batch_size=BATCH, hidden=self.hidden, description=description
        )
        return gathered(self, self.answer, batches, len(rows))

    def _check(self, data: Histories) -> None:
        check_fits(data, self.vocabularies, self._contents.shape, self.hidden)
