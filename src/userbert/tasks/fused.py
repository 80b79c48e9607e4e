"""A yes-or-no task by all that is known: the network, vectors beside counts, trees on counts.

In: a `UserBert`, prepared data, `Labels`. Out: `FusedModel`, the mean of several models' log odds,
which is what `evaluate` calls `fused`; it scores users and is saved in a folder of its own.
`finetune --with-aggregates` makes it and `predict` reads it.

```
TASK/
  summary.json             format, version, checksums of every other file
  fused.json               how it was learned; by whose log odds scores are made alike
  network/                 a task folder: the fine-tuned network
  pretrained/              a model folder: whose vectors the regression reads
  regression.safetensors   its weights, and what its columns are divided by
  trees.txt                of the trees on counts: LightGBM's own texts, one after the other
  timed-trees.txt          of those that read the vectors' timing, too, if vectors have one
  README.md                the same for people, who may edit it: it is not checked
```
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
from userbert.data.use.pairs import Pairs, pairs_asked
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
from userbert.tasks.aggregates import aggregates, of_all_history
from userbert.tasks.blending import LEAST, log_odds, trust
from userbert.tasks.finetune import FinetuneConfig, finetune, quality
from userbert.tasks.labels import Labels
from userbert.tasks.predictions import answered
from userbert.tasks.regression import Regression, Scales, learn_linear
from userbert.tasks.splits import Split, parts_to_learn_from
from userbert.tasks.task_card import task_card
from userbert.tasks.task_model import TaskModel
from userbert.tasks.trees import Trees, learn_gbm, with_timing
from userbert.training.tracking import Tracker

FORMAT = 1
FUSED = "fused.json"
"""The file by which a folder of this kind is known."""
_FILES = (FUSED, "regression.safetensors", "trees.txt")
_TIMED = "timed-trees.txt"
_PAIRS = 50_000
"""Scored at a time: of so many the counts are in memory."""


@dataclass(frozen=True)
class Alike:
    """How a model's log odds are made as wide as those of the others, whoever is asked together."""

    center: float
    width: float

    @classmethod
    def of(cls, scores: Floats) -> "Alike":
        """As those have them whom the model did not learn from."""
        odds = log_odds(scores)
        return cls(float(odds.mean()), max(float(odds.std()), LEAST))


@dataclass(frozen=True)
class FusedModel:
    """The models of a yes-or-no task, and how their mean is taken."""

    network: TaskModel
    pretrained: UserBert
    """Whose vectors are read beside counts: as they were before fine-tuning."""
    regression: Regression
    trees: Trees
    """On counts."""
    timed_trees: Trees | None
    """On counts and the vectors' timing, if they have one."""
    alike: Mapping[str, Alike]
    """By the names of the models."""
    weights: Mapping[str, float]
    """Of each in their mean; see `blending.trust`."""
    record: Mapping[str, Any]
    """How it was learned."""

    @property
    def kind(self) -> str:
        """A yes-or-no task always."""
        return self.network.kind

    @property
    def hidden(self) -> tuple[str, ...]:
        """Profile fields that it does not see."""
        return self.network.hidden

    def scores(self, data: PreparedData, rows: Int64, cutoffs: Int64) -> Floats:
        """The probability of yes of (user, cut-off) pairs, given as (B,) each: (B,).

        Raises `ModelError` if the data have other ids than the model.
        """
        self.pretrained.check_fits(data)
        parts = []
        with progress("scoring", len(rows)) as advance:
            for first in range(0, len(rows), _PAIRS):
                some = slice(first, first + _PAIRS)
                each = self._each(data, rows[some], cutoffs[some])
                parts.append(_mean(each, self.alike, self.weights))
                advance(len(parts[-1]), "")
        return np.concatenate(parts) if parts else np.zeros(0)

    def _each(self, data: PreparedData, rows: Int64, cutoffs: Int64) -> dict[str, Floats]:
        counts, names = aggregates(data, rows, cutoffs, self.hidden)
        vectors = embed_pairs(self.pretrained, data, rows, cutoffs)
        found = {
            "network": self.network.scores(data, rows, cutoffs),
            "regression": self.regression.scores(counts[:, of_all_history(names)], vectors),
            "trees": self.trees.scores(counts),
        }
        if self.timed_trees is not None:
            timed = with_timing(counts, vectors, self.pretrained.timing_width())
            found["timed trees"] = self.timed_trees.scores(timed)
        return found

    def predict(
        self,
        data: PreparedData,
        cutoff: str | date | datetime | None = None,
        at: Any | None = None,
    ) -> pl.DataFrame:
        """Score users as a frame `user_id`, `cutoff`, `score`; as `TaskModel.predict` does."""
        return self.predict_pairs(data, pairs_asked(data, cutoff, at))

    def predict_pairs(self, data: PreparedData, pairs: Pairs) -> pl.DataFrame:
        """Score pairs as `predict` does."""
        return answered(data, pairs, self.scores(data, pairs.rows, pairs.cutoffs))

    def save(self, folder: str | Path) -> None:
        """Write a task folder, whole or not at all; raise `InputError` if it exists."""
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
                "alike": {name: asdict(one) for name, one in self.alike.items()},
                "weights": self.weights,
                "record": self.record,
            }
            write_json(temporary / FUSED, about)
            told = task_card(self.network.about, "TASK/network/model", self.record)
            (temporary / CARD).write_text(told, encoding="utf-8")
            write_summary(temporary, "task", format=FORMAT)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Load a task folder; raise `ModelError` if it is damaged or of a newer format."""
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
                {name: Alike(**one) for name, one in about["alike"].items()},
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
    """Load a task folder of either kind; raise `ModelError` as their own `load` does."""
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
    """Learn a yes-or-no task by network, regression and two kinds of trees; see `finetune`.

    Raises `LabelError` for another kind of task, and as `finetune` does.
    """
    config = config or FinetuneConfig()
    labels = labels if isinstance(labels, Labels) else Labels.of(labels, data)
    if labels.kind != "binary":
        raise LabelError(
            f"{labels.name}: counts stand beside the network in yes-or-no tasks alone, and this is "
            f"a {labels.kind} one. Fine-tune it without --with-aggregates."
        )
    everyone = np.arange(len(labels))
    parts = parts_to_learn_from(
        labels.user_ids, labels.targets, everyone, config.seed, config.validation
    )
    if any(len(set(labels.targets[np.setdiff1d(everyone, part)].tolist())) < 2 for part in parts):
        raise LabelError(
            f"{labels.name}: too few users have the rarer answer to learn it without some of them. "
            "Give two users of each answer at least, or fine-tune without --with-aggregates."
        )
    # Nobody is asked: all that are not set apart are learned from.
    split = Split(parts, everyone[:0])
    validation = split.validation
    network = finetune(
        model, data, labels, config=config, train_on=split.train, validate_on=validation,
        trackers=trackers,
    )  # fmt: skip
    rows = data.rows_of(labels.user_ids)
    counts, names = aggregates(data, rows, labels.cutoffs, model.hidden)
    vectors = embed_pairs(model, data, rows, labels.cutoffs)
    lasting = sparse.csr_matrix(counts[:, of_all_history(names)])
    timing = model.timing_width()
    regression, of_regression, by_regression = learn_linear(
        lasting, vectors, labels.targets, split, timing
    )
    trees, of_trees, by_trees = learn_gbm(counts, labels.targets, split)
    held = {
        "network": network.scores(data, rows[validation], labels.cutoffs[validation]),
        "regression": by_regression,
        "trees": by_trees,
    }
    qualities = {
        "network": network.record["quality"],
        "regression": of_regression,
        "trees": of_trees,
    }
    timed_trees = None
    if timing:
        timed = with_timing(counts, vectors, timing)
        timed_trees, qualities["timed trees"], held["timed trees"] = learn_gbm(
            timed, labels.targets, split
        )
    alike = {name: Alike.of(scores) for name, scores in held.items()}
    told = labels.targets[validation]
    judges = max(1, min(told.sum(), len(told) - told.sum()))
    weights = dict(zip(qualities, trust([*qualities.values()], judges), strict=True))
    record = {
        **network.record,
        "qualities": qualities,
        "quality": quality(labels, told, _mean(held, alike, weights)),
    }
    return FusedModel(network, model, regression, trees, timed_trees, alike, weights, record)


def _mean(
    scores: Mapping[str, Floats], alike: Mapping[str, Alike], weights: Mapping[str, float]
) -> Floats:
    """The mean of log odds, each as wide as they are on average, as a probability.

    As `blending.blend`, but by the widths of users set apart: a score must not depend on who else
    is asked for. A model that gives everybody the same has nothing to say.
    """
    told = [name for name in scores if alike[name].width > LEAST] or [*scores]
    standard = [(log_odds(scores[name]) - alike[name].center) / alike[name].width for name in told]
    center = np.mean([one.center for one in alike.values()])
    width = np.mean([one.width for one in alike.values()])
    mean = np.average(standard, axis=0, weights=[weights[name] for name in told])
    found: Floats = expit(center + width * mean)
    return found
