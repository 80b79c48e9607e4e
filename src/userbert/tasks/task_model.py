"""A task model: a network with a task head, and its folder.

In: prepared data and (user, cut-off) pairs. Out: scores. `finetune` makes it; `predict`, `explain`,
`evaluate` and the service use it. Its folder is self-contained:

```
TASK/
  summary.json         format, version, checksum of every other file
  task.json            the question, classes, hidden fields, training record
  head.safetensors     the head's weights
  model/               the network, a model folder
  README.md            task.json for people; may be edited, so it has no checksum
```

Letters in shapes: B (user, cut-off) pairs, C classes.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from datetime import date, datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from userbert.data.batches import UserBatch
from userbert.data.ragged import Floats, Int64
from userbert.data.store import PreparedData
from userbert.data.use.loading import batches_by_length
from userbert.data.use.pairs import Pairs, pairs_from
from userbert.errors import InputError, ModelError
from userbert.folders import (
    CARD,
    check_summary,
    describe_path,
    publishing_folder,
    read_json,
    write_json,
    write_summary,
)
from userbert.model.artifact import save_tensors
from userbert.model.userbert import Pool, UserBert
from userbert.tasks.labels import Labels
from userbert.tasks.predictions import TaskSpec, predictions_frame
from userbert.tasks.task_card import task_card
from userbert.tasks.task_head import TaskHead

FORMAT = 1
"""Format version of a task folder."""
_BATCH = 256
"""Number of pairs scored at once."""
_FILES = ("head.safetensors", "task.json")
"""Files that every task folder has, next to its model folder."""


class TaskModel(nn.Module):
    """A network with a linear head on the first token's final vector (paper §4.4).

    If the network's user embedding joins all pooled vectors (`pool=all`), the head reads all of
    them instead.
    """

    def __init__(self, user_bert: UserBert, labels: Labels) -> None:
        super().__init__()
        self.user_bert = user_bert
        self.labels = replace(
            labels, user_ids=(), cutoffs=labels.cutoffs[:0], targets=labels.targets[:0]
        )
        """Specification of the task, as labels without pairs."""
        self.record: dict[str, Any] = {}
        """Training record: settings, best epoch, quality; empty before training."""
        self.pool: Pool = "all" if user_bert.config.pool == "all" else "cls"
        self.head = TaskHead(user_bert.width(self.pool), labels)

    @property
    def kind(self) -> str:
        """Kind of the task: binary, multiclass, multilabel or regression."""
        return self.labels.kind

    @property
    def spec(self) -> TaskSpec:
        """Specification of the task."""
        return TaskSpec(
            **{field.name: getattr(self.labels, field.name) for field in fields(TaskSpec)}
        )

    @property
    def hidden(self) -> tuple[str, ...]:
        """Profile fields that the model does not read."""
        return self.user_bert.hidden

    @property
    def about(self) -> Mapping[str, Any]:
        """Content of `task.json`: the specification and the training record."""
        return {**self.spec.to_json(), "record": self.record}

    def forward(self, batch: UserBatch) -> Tensor:
        """Returns the head's raw outputs, (B, 1) or (B, C)."""
        vectors = self.user_bert.user_vectors(self.user_bert(batch), self.pool)
        return self.head(vectors)  # type: ignore[no-any-return]

    def scores(self, data: PreparedData, rows: Int64, cutoffs: Int64) -> Floats:
        """Returns the scores of (user, cut-off) pairs.

        `rows` (B,) are the users' rows in the data, `cutoffs` (B,) microseconds since 1970.

        Binary: probability of yes (B,). Multiclass and multilabel: class shares (B, C) that sum to
        1. Regression: predicted quantity (B,). Raises `ModelError` if the data's vocabularies or
        words differ from the model's.
        """
        self.user_bert.check_fits(data)
        has_classes = self.kind not in ("binary", "regression")
        shape = (len(rows), self.head.out_features) if has_classes else len(rows)
        scores = np.empty(shape, np.float32)
        was_training = self.training
        self.eval()
        with torch.inference_mode():
            for batch in batches_by_length(
                data, rows, cutoffs, batch_size=_BATCH, hidden=self.hidden, description="scoring"
            ):
                scores[batch.index] = self.head.scores(self(batch)).cpu().numpy()
        self.train(was_training)
        return scores

    def predict(
        self,
        data: PreparedData,
        cutoff: str | date | datetime | None = None,
        at: Any | None = None,
    ) -> pl.DataFrame:
        """Returns a frame of `user_id`, `cutoff` and `score`, or `values` and their `scores`.

        Scores all users with an event before `cutoff` (default: just after the last event), or the
        rows of `at`, a frame of `user_id` and optionally `cutoff`. For tasks with classes, `values`
        holds the ten best classes, best first.
        """
        return self.predict_pairs(data, pairs_from(data, cutoff, at))

    def predict_pairs(self, data: PreparedData, pairs: Pairs) -> pl.DataFrame:
        """Scores pairs; returns the frame that `predict` returns."""
        scores = self.scores(data, pairs.rows, pairs.cutoffs)
        return predictions_frame(data, pairs, scores, self.labels.classes)

    def save(self, folder: str | Path) -> None:
        """Writes a task folder atomically; raises `InputError` if it exists."""
        with publishing_folder(Path(folder)) as temporary:
            self.write(temporary)

    def write(self, folder: Path) -> None:
        """Writes the task's files into an existing folder."""
        (folder / "model").mkdir()
        # The model's own card would describe only pretraining.
        self.user_bert.write(folder / "model", with_card=False)
        weights = self.head.state_dict()
        save_tensors(
            {name: tensor.contiguous() for name, tensor in weights.items()},
            folder / "head.safetensors",
        )
        write_json(folder / "task.json", self.about)
        (folder / CARD).write_text(task_card(self.about, "TASK/model"), encoding="utf-8")
        write_summary(folder, "task", format=FORMAT)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Loads a task folder; raises `ModelError` if it is damaged or has another format."""
        folder = Path(folder)
        _check_folder(folder)
        network = UserBert.from_pretrained(folder / "model")
        try:
            about = read_json(folder / "task.json")
            record = about.pop("record")
            spec, empty = TaskSpec.from_json(about), np.zeros(0, np.int64)
            task = cls(network, Labels(**vars(spec), user_ids=(), cutoffs=empty, targets=empty))
            task.head.load_state_dict(load_file(folder / "head.safetensors"))
        except (InputError, SafetensorError, KeyError, TypeError, RuntimeError) as error:
            raise ModelError(f"{folder} is not a task model that can be read: {error}.") from error
        task.record = record
        return task.eval()


def _check_folder(folder: Path) -> None:
    """Raises `ModelError` if a file is missing, a checksum differs, or the format is another."""
    if not (folder / "summary.json").is_file() or not (folder / "task.json").is_file():
        raise ModelError(
            f"{folder} is not a task model (it has no summary.json with a task.json; "
            f"{describe_path(folder)}). "
            "Make one with `userbert finetune MODEL DATA --labels FILE -o TASK`."
        )
    check_summary(folder, FORMAT, _FILES)
