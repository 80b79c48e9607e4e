"""The fused model of a binary task: network, regression and boosted trees, averaged.

In: a `UserBert`, prepared data, `Labels`. Out: a `FusedModel`, the weighted mean of its members'
log-odds, which `evaluate` calls `fused`; it can be saved as a task folder. `finetune
--with-aggregates` makes it, `predict` reads it.

```
TASK/
  summary.json             format, version, checksum of every other file
  fused.json               training record, weights of the members, scales of their log-odds
  network/                 the fine-tuned network, a task folder
  pretrained/              the model whose vectors the regression reads, a model folder
  regression.safetensors   the regression's weights and the standardisation of its columns
  trees.txt                trees on counts: LightGBM's texts, concatenated
  timed-trees.txt          trees on counts and the vectors' timing, if vectors have timing
  README.md                the task and its record for people; may be edited, so has no checksum
```

Letter in shapes: B (user, cut-off) pairs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, Self

import lightgbm
import numpy as np
import polars as pl
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy import sparse
from scipy.special import expit

from userbert.data.ragged import Floats, Int64
from userbert.data.store import PreparedData
from userbert.data.use.pairs import Pairs, pairs_from
from userbert.errors import InputError, LabelError, ModelError
from userbert.folders import (
    CARD,
    check_summary,
    publishing_folder,
    read_json,
    write_json,
    write_summary,
)
from userbert.model.userbert import UserBert, embed_pairs
from userbert.progress import progress
from userbert.tasks.aggregates import aggregates, all_history_columns
from userbert.tasks.blending import EPSILON, log_odds, trust
from userbert.tasks.finetune import FinetuneConfig, finetune, quality
from userbert.tasks.labels import Labels
from userbert.tasks.predictions import predictions_frame
from userbert.tasks.regression import Regression, Scales, learn_linear
from userbert.tasks.splits import Split, learning_parts
from userbert.tasks.task_card import task_card
from userbert.tasks.task_model import TaskModel
from userbert.tasks.trees import Trees, learn_gbm, with_timing
from userbert.training.tracking import Tracker

FORMAT = 1
"""Format version of a fused task's folder."""
FUSED = "fused.json"
"""The file that marks a folder as a fused task."""
_FILES = (FUSED, "regression.safetensors", "trees.txt")
"""Files that every fused task has."""
_TIMED = "timed-trees.txt"
"""File of the trees on counts and timing."""
_PAIRS = 50_000
"""Number of pairs scored at once, to bound the memory of the counts."""


@dataclass(frozen=True)
class OddsScale:
    """Held-out mean and deviation of a member's log-odds.

    They standardise the member's scores, so that a score does not depend on the other users in the
    call.
    """

    center: float
    """Mean."""
    width: float
    """Standard deviation, at least `EPSILON`."""

    @classmethod
    def of(cls, scores: Floats) -> "OddsScale":
        """Computes the scale from the scores of users that the member was not fitted on."""
        odds = log_odds(scores)
        return cls(float(odds.mean()), max(float(odds.std()), EPSILON))


@dataclass(frozen=True)
class FusedModel:
    """The members of a binary task's fused model, and the weights of their mean."""

    network: TaskModel
    """Fine-tuned network."""
    pretrained: UserBert
    """Model before fine-tuning; the regression and the timed trees read its vectors."""
    regression: Regression
    """Logistic regression on counts and vectors."""
    trees: Trees
    """Trees on counts."""
    timed_trees: Trees | None
    """Trees on counts and the vectors' timing; `None` if vectors have no timing."""
    odds_scales: Mapping[str, OddsScale]
    """Scale of each member's log-odds, by the member's name."""
    weights: Mapping[str, float]
    """Weight of each member in the mean; see `blending.trust`."""
    record: Mapping[str, Any]
    """Training record of the network, and the validation qualities of members and mean."""

    @property
    def kind(self) -> str:
        """Kind of the task: always binary."""
        return self.network.kind

    @property
    def hidden(self) -> tuple[str, ...]:
        """Profile fields that the model does not read."""
        return self.network.hidden

    def scores(self, data: PreparedData, rows: Int64, cutoffs: Int64) -> Floats:
        """Returns each pair's probability of yes (B,).

        `rows` (B,) are the users' rows in the data, `cutoffs` (B,) microseconds since 1970.

        Raises `ModelError` if the data's vocabularies or words differ from the model's.
        """
        self.pretrained.check_fits(data)
        parts = []
        with progress("scoring", len(rows)) as advance:
            for first in range(0, len(rows), _PAIRS):
                part = slice(first, first + _PAIRS)
                scores = self._each(data, rows[part], cutoffs[part])
                parts.append(_mean(scores, self.odds_scales, self.weights))
                advance(len(parts[-1]), "")
        return np.concatenate(parts) if parts else np.zeros(0)

    def _each(self, data: PreparedData, rows: Int64, cutoffs: Int64) -> dict[str, Floats]:
        """Returns the probabilities (B,) of each member, by the member's name."""
        counts, names = aggregates(data, rows, cutoffs, self.hidden)
        vectors = embed_pairs(self.pretrained, data, rows, cutoffs)
        scores = {
            "network": self.network.scores(data, rows, cutoffs),
            "regression": self.regression.scores(counts[:, all_history_columns(names)], vectors),
            "trees": self.trees.scores(counts),
        }
        if self.timed_trees is not None:
            timed = with_timing(counts, vectors, self.pretrained.timing_width())
            scores["timed trees"] = self.timed_trees.scores(timed)
        return scores

    def predict(
        self,
        data: PreparedData,
        cutoff: str | date | datetime | None = None,
        at: Any | None = None,
    ) -> pl.DataFrame:
        """Returns a frame of `user_id`, `cutoff`, `score`; see `TaskModel.predict`."""
        return self.predict_pairs(data, pairs_from(data, cutoff, at))

    def predict_pairs(self, data: PreparedData, pairs: Pairs) -> pl.DataFrame:
        """Scores pairs; returns the frame that `predict` returns."""
        return predictions_frame(data, pairs, self.scores(data, pairs.rows, pairs.cutoffs))

    def save(self, folder: str | Path) -> None:
        """Writes a task folder atomically; raises `InputError` if it exists."""
        with publishing_folder(Path(folder)) as temporary:
            for name in ("network", "pretrained"):
                (temporary / name).mkdir()
            self.network.write(temporary / "network")
            self.pretrained.write(temporary / "pretrained")
            arrays = {
                "weights": self.regression.weights,
                "intercept": np.array([self.regression.intercept]),
                **{f"scales.{name}": value for name, value in vars(self.regression.scales).items()},
            }
            save_file(
                {name: np.ascontiguousarray(array) for name, array in arrays.items()},
                temporary / "regression.safetensors",
            )
            for name, trees in (("trees.txt", self.trees), (_TIMED, self.timed_trees)):
                if trees is not None:
                    (temporary / name).write_text(trees.to_text(), encoding="utf-8")
            about = {
                "is_leading": self.regression.is_leading,
                "alike": {name: asdict(scale) for name, scale in self.odds_scales.items()},
                "weights": self.weights,
                "record": self.record,
            }
            write_json(temporary / FUSED, about)
            card = task_card(self.network.about, "TASK/network/model", self.record)
            (temporary / CARD).write_text(card, encoding="utf-8")
            write_summary(temporary, "task", format=FORMAT)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Loads a task folder; raises `ModelError` if it is damaged or has another format."""
        folder = Path(folder)
        check_summary(folder, FORMAT, _FILES)
        try:
            about = read_json(folder / FUSED)
            arrays = load_file(folder / "regression.safetensors")
            scales = {
                name.removeprefix("scales."): array
                for name, array in arrays.items()
                if name.startswith("scales.")
            }
            return cls(
                TaskModel.load(folder / "network"),
                UserBert.from_pretrained(folder / "pretrained"),
                Regression(
                    Scales(**scales),
                    bool(about["is_leading"]),
                    arrays["weights"],
                    float(arrays["intercept"][0]),
                ),
                Trees.from_text((folder / "trees.txt").read_text(encoding="utf-8")),
                Trees.from_text((folder / _TIMED).read_text(encoding="utf-8"))
                if (folder / _TIMED).is_file()
                else None,
                {name: OddsScale(**scale) for name, scale in about["alike"].items()},
                about["weights"],
                about["record"],
            )
        except (
            InputError,
            SafetensorError,
            lightgbm.basic.LightGBMError,
            KeyError,
            TypeError,
        ) as error:
            raise ModelError(f"{folder} is not a task model that can be read: {error}.") from error


def load_task(folder: str | Path) -> TaskModel | FusedModel:
    """Loads a task folder, fused or not.

    Raises `ModelError` if the folder is damaged or has another format.
    """
    if (Path(folder) / FUSED).is_file():
        return FusedModel.load(folder)
    return TaskModel.load(folder)


def finetune_with_aggregates(
    model: UserBert,
    data: PreparedData,
    labels: Labels | Any,
    *,
    config: FinetuneConfig | None = None,
    trackers: Sequence[Tracker] = (),
) -> FusedModel:
    """Fits a fused model to a binary task; for the parameters, see `finetune`.

    Trees on timing are fitted only if the vectors have timing. Raises the errors of `finetune`, and
    `LabelError` for other kinds of task and for too few labels.
    """
    config = config or FinetuneConfig()
    labels = labels if isinstance(labels, Labels) else Labels.of(labels, data)
    if labels.kind != "binary":
        raise LabelError(
            f"{labels.name} is a {labels.kind} task, but only a binary (yes or no) task can "
            "combine a network with aggregates. Use finetune without aggregates."
        )
    all_pairs = np.arange(len(labels))
    parts = learning_parts(
        labels.user_ids, labels.targets, all_pairs, config.seed, config.validation
    )
    if any(len(set(labels.targets[np.setdiff1d(all_pairs, part)].tolist())) < 2 for part in parts):
        raise LabelError(
            f"{labels.name}: too few users have the rarer answer to hold some of them out for "
            "validation. Give at least two users per answer, or use finetune without aggregates."
        )
    # No pair is held back for a test: all pairs are for training and validation.
    split = Split(parts, all_pairs[:0])
    validation = split.validation
    network = finetune(
        model, data, labels, config=config, train_on=split.train, validate_on=validation,
        trackers=trackers,
    )  # fmt: skip
    rows = data.rows_of(labels.user_ids)
    counts, names = aggregates(data, rows, labels.cutoffs, model.hidden)
    vectors = embed_pairs(model, data, rows, labels.cutoffs)
    long_counts = sparse.csr_matrix(counts[:, all_history_columns(names)])
    timing = model.timing_width()
    regression, regression_quality, regression_scores = learn_linear(
        long_counts, vectors, labels.targets, split, timing
    )
    trees, trees_quality, trees_scores = learn_gbm(counts, labels.targets, split)
    held_scores = {
        "network": network.scores(data, rows[validation], labels.cutoffs[validation]),
        "regression": regression_scores,
        "trees": trees_scores,
    }
    qualities = {
        "network": network.record["quality"],
        "regression": regression_quality,
        "trees": trees_quality,
    }
    timed_trees = None
    if timing:
        timed = with_timing(counts, vectors, timing)
        timed_trees, qualities["timed trees"], held_scores["timed trees"] = learn_gbm(
            timed, labels.targets, split
        )
    odds_scales = {name: OddsScale.of(scores) for name, scores in held_scores.items()}
    targets = labels.targets[validation]
    judges = max(1, min(targets.sum(), len(targets) - targets.sum()))
    weights = dict(zip(qualities, trust([*qualities.values()], judges), strict=True))
    record = {
        **network.record,
        "qualities": qualities,
        "quality": quality(labels, targets, _mean(held_scores, odds_scales, weights)),
    }
    return FusedModel(network, model, regression, trees, timed_trees, odds_scales, weights, record)


def _mean(
    scores: Mapping[str, Floats],
    odds_scales: Mapping[str, OddsScale],
    weights: Mapping[str, float],
) -> Floats:
    """Returns the weighted mean of the members' standardised log-odds as probabilities.

    Differs from `blending.blend` in that the scales come from held-out users, so that a score does
    not depend on the other users in the call. A member with constant scores is ignored.
    """
    names = [name for name in scores if odds_scales[name].width > EPSILON] or [*scores]
    standard = [
        (log_odds(scores[name]) - odds_scales[name].center) / odds_scales[name].width
        for name in names
    ]
    center = np.mean([scale.center for scale in odds_scales.values()])
    width = np.mean([scale.width for scale in odds_scales.values()])
    mean = np.average(standard, axis=0, weights=[weights[name] for name in names])
    probabilities: Floats = expit(center + width * mean)
    return probabilities
