"""A task model: a network, a head, and what its answers mean.

In: prepared data and (user, cut-off) pairs. Out: scores. `finetune` makes one; `predict`,
`explain`, `evaluate` and the service use it. Its folder needs nothing else:

```
TASK/
  summary.json         format, version, checksums of every other file
  task.json            the question, its classes, the hidden fields, how it was learned
  head.safetensors     the head's weights
  model/               the network, a model folder
  README.md            the same for people, who may edit it: it is not checked
```
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
from userbert.data.use.loading import in_length_order
from userbert.data.use.pairs import Pairs, pairs_asked
from userbert.errors import InputError, ModelError
from userbert.folders import (
    CARD,
    check_summary,
    found_at,
    publishing_folder,
    read_json,
    write_json,
    write_summary,
)
from userbert.model.artifact import save_tensors
from userbert.model.userbert import Pool, UserBert
from userbert.tasks.labels import Labels
from userbert.tasks.predictions import Asked, answered
from userbert.tasks.task_card import task_card
from userbert.tasks.task_head import TaskHead

FORMAT = 1
_BATCH = 256
_FILES = ("head.safetensors", "task.json")


class TaskModel(nn.Module):
    """A network with a linear head on the first token's final vector (paper §4.4).

    Where the network's user embedding is all there is (`pool=all`), the head reads all of it.
    """

    def __init__(self, user_bert: UserBert, labels: Labels) -> None:
        super().__init__()
        self.user_bert = user_bert
        self.labels = replace(
            labels, user_ids=(), cutoffs=labels.cutoffs[:0], targets=labels.targets[:0]
        )
        """The task without its pairs: its name, question, kind, classes, hidden fields."""
        self.record: dict[str, Any] = {}
        """How it was learned."""
        self.pool: Pool = "all" if user_bert.config.pool == "all" else "cls"
        self.head = TaskHead(user_bert.width(self.pool), labels)

    @property
    def kind(self) -> str:
        """Binary, multiclass, multilabel or regression."""
        return self.labels.kind

    @property
    def asked(self) -> Asked:
        """The question."""
        return Asked(**{field.name: getattr(self.labels, field.name) for field in fields(Asked)})

    @property
    def hidden(self) -> tuple[str, ...]:
        """Profile fields that it does not see."""
        return self.user_bert.hidden

    @property
    def about(self) -> Mapping[str, Any]:
        """What was asked, and how it was learned, as JSON."""
        return {**self.asked.to_json(), "record": self.record}

    def forward(self, batch: UserBatch) -> Tensor:
        """Outputs of the head, (B, 1) or (B, C), before they are made scores."""
        vectors = self.user_bert.user_vectors(self.user_bert(batch), self.pool)
        return self.head(vectors)  # type: ignore[no-any-return]

    def scores(self, data: PreparedData, rows: Int64, cutoffs: Int64) -> Floats:
        """Score (user, cut-off) pairs, given as (B,) each.

        Binary: the probability of yes (B,); multiclass and multilabel: shares of the classes
        (B, C), 1 in all; regression: the quantity (B,). Raises `ModelError` if the data have other
        ids than the model.
        """
        self.user_bert.check_fits(data)
        has_classes = self.kind not in ("binary", "regression")
        shape = (len(rows), self.head.out_features) if has_classes else len(rows)
        scores = np.empty(shape, np.float32)
        was_training = self.training
        self.eval()
        with torch.inference_mode():
            for batch in in_length_order(
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
        """Score users as a frame `user_id`, `cutoff`, and `score`, or `values` and their `scores`.

        Every user who has an event before `cutoff` (default: just after the last event), or the
        rows of `at`, a frame of `user_id` and perhaps `cutoff`. Of a task of many classes, the ten
        best `values` are named, best first.
        """
        return self.predict_pairs(data, pairs_asked(data, cutoff, at))

    def predict_pairs(self, data: PreparedData, pairs: Pairs) -> pl.DataFrame:
        """Score pairs as `predict` does."""
        scores = self.scores(data, pairs.rows, pairs.cutoffs)
        return answered(data, pairs, scores, self.labels.classes)

    def save(self, folder: str | Path) -> None:
        """Write a task folder, whole or not at all; raise `InputError` if it exists."""
        with publishing_folder(Path(folder)) as temporary:
            self.write(temporary)

    def write(self, folder: Path) -> None:
        """Write the task's files into a folder that exists."""
        (folder / "model").mkdir()
        # Its own card would tell of pretraining alone.
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
        """Load a task folder; raise `ModelError` if it is damaged or of a newer format."""
        folder = Path(folder)
        _check(folder)
        network = UserBert.from_pretrained(folder / "model")
        try:
            about = read_json(folder / "task.json")
            record = about.pop("record")
            asked, none = Asked.from_json(about), np.zeros(0, np.int64)
            task = cls(network, Labels(**vars(asked), user_ids=(), cutoffs=none, targets=none))
            task.head.load_state_dict(load_file(folder / "head.safetensors"))
        except (InputError, SafetensorError, KeyError, TypeError, RuntimeError) as error:
            raise ModelError(f"{folder} is not a task model that can be read: {error}.") from error
        task.record = record
        return task.eval()


def _check(folder: Path) -> None:
    """Compare every file with its checksum."""
    if not (folder / "summary.json").is_file() or not (folder / "task.json").is_file():
        raise ModelError(
            f"{folder} is not a task model (it has no summary.json with a task.json; "
            f"{found_at(folder)}). "
            "Make one with `userbert finetune MODEL DATA --labels FILE -o TASK`."
        )
    check_summary(folder, FORMAT, _FILES)
