"""Pretraining of the compared models, on the same users and for the same batches (paper §4.4).

In: a recipe, prepared data and a budget. Out: a pretrained encoder and its training record.
UserBERT is pretrained as `userbert pretrain` does; the other models by the same loop on the same
pairs. An interrupted pretraining resumes from its last checkpoint.
"""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file

from userbert.data.store import PreparedData
from userbert.data.use.loading import SequenceBatches
from userbert.data.use.pairs import pairs_at
from userbert.experiments.baselines.coles import coles
from userbert.experiments.baselines.multitask import MultiTask, multitask
from userbert.experiments.reproduction.finetuning import draw_share
from userbert.experiments.reproduction.multitask_labels import (
    COMPLETE_JOURNEY,
    SIMULATED,
    Spec,
    multitask_labels,
)
from userbert.experiments.reproduction.recipes import (
    FirstToken,
    Recipe,
    UserEncoder,
    fastest_precision,
    new_encoder,
)
from userbert.folders import read_json, replacing_file, write_json
from userbert.model.userbert import UserBert
from userbert.training.distributed import ALONE
from userbert.training.loop import LoopConfig, train
from userbert.training.pretrain import pretrain, split_pairs
from userbert.training.settings import configure

HELD_OUT = 0.05
"""Share of users held out from pretraining, as in `userbert pretrain`."""
_CHECKPOINT_EVERY = 2_500
"""Number of batches between checkpoints."""
_LABELS: Mapping[str, Sequence[Spec]] = {
    "simulated": SIMULATED,
    "complete-journey": COMPLETE_JOURNEY,
}
"""Labels of multi-task pretraining by data set."""


@dataclass(frozen=True)
class Budget:
    """Settings of pretraining that do not depend on the recipe."""

    data: str
    """Name of the data set."""
    cutoff: str
    """Pretraining sees events before this date."""
    hidden: tuple[str, ...]
    """Profile fields hidden from all models."""
    batches: int
    """Number of batches."""
    batch_size: int
    """Users per batch."""
    learning_rate: float | None
    """Learning rate of Adam; None for models that are not pretrained."""
    seed: int
    silent: tuple[str, ...] = ()
    """Users whose profile fields give no labels: the test users of attribute prediction."""


@dataclass(frozen=True)
class Pretrained:
    """An encoder to fine-tune, and the record of its pretraining."""

    encoder: UserEncoder
    record: Mapping[str, Any]
    """Losses, number of users and seconds; empty without pretraining."""


def pretrained(recipe: Recipe, data: PreparedData, budget: Budget, work: Path) -> Pretrained:
    """Returns an encoder as its recipe pretrains it.

    The folder `work` keeps the weights: finished pretraining is not repeated.
    """
    if recipe.pretext is None:
        return Pretrained(new_encoder(recipe, data, budget.hidden, budget.seed), {})
    if recipe.pretext == "masked-words":
        return _masked_words(recipe, data, budget, work)
    encoder = new_encoder(recipe, data, budget.hidden, budget.seed)
    weights, record_path = work / "encoder.safetensors", work / "record.json"
    if not weights.exists():
        work.mkdir(parents=True, exist_ok=True)
        record = _train(encoder, recipe, data, budget, work / "training")
        write_json(record_path, record)
        with replacing_file(weights) as temporary:
            save_file(encoder.state_dict(), temporary)
        shutil.rmtree(work / "training")
    encoder.load_state_dict(load_file(weights))
    return Pretrained(encoder, read_json(record_path))


def _masked_words(recipe: Recipe, data: PreparedData, budget: Budget, work: Path) -> Pretrained:
    """Pretrains UserBERT on masked words, or opens the model that `work` holds."""
    settings = [
        f"steps={budget.batches}",
        f"batch_size={budget.batch_size}",
        f"learning_rate={budget.learning_rate}",
        f"held_out={HELD_OUT}",
        f"keep_position={str(recipe.keep_position).lower()}",
        f"checkpoint_every={min(_CHECKPOINT_EVERY, budget.batches)}",
        "softmax=sampled",
    ]
    work.mkdir(parents=True, exist_ok=True)
    model: UserBert = pretrain(
        data,
        work / "model",
        preset="paper",
        config=configure("paper", settings),
        seed=budget.seed,
        before=budget.cutoff,
        hide=budget.hidden,
        resume=True,
    )
    keys = ("loss", "losses", "validation", "users", "seconds")
    return Pretrained(FirstToken(model), {name: model.record[name] for name in keys})


def _train(
    encoder: UserEncoder, recipe: Recipe, data: PreparedData, budget: Budget, folder: Path
) -> dict[str, Any]:
    """Pretrains `encoder` in place, by multi-task labels or by CoLES; returns the record."""
    started = time.perf_counter()
    assert budget.learning_rate is not None, "a pretrained model has a learning rate"
    pairs = pairs_at(data, [data.schema.instant(budget.cutoff)])
    learning, _ = split_pairs(data, pairs, HELD_OUT, ALONE)
    folder.mkdir(exist_ok=True)
    loop = LoopConfig(
        steps=budget.batches,
        learning_rate=budget.learning_rate,
        seed=budget.seed,
        precision=fastest_precision(encoder),
        checkpoint_every=min(_CHECKPOINT_EVERY, budget.batches),
    )
    learning = draw_share(learning, recipe.label_share, budget.seed)
    batches = SequenceBatches(
        data,
        pairs.rows[learning],
        pairs.cutoffs[learning],
        batch_size=budget.batch_size,
        seed=budget.seed,
        hidden=budget.hidden,
        numbers=learning,
    )
    if recipe.pretext == "coles":
        trained = train(encoder, coles, batches, loop, folder=folder)
    else:
        silent = np.isin(pairs.rows, data.rows_of(budget.silent))
        labels = multitask_labels(data, pairs, _LABELS[budget.data], silent)
        module = MultiTask(encoder, [len(classes) for classes in labels.classes])
        trained = train(
            module, multitask(labels.names, labels.targets), batches, loop, folder=folder
        )
    last = [line for line in trained.lines if "loss" in line][-1]
    return {
        "loss": last["loss"],
        "losses": last["losses"],
        "users": trained.users,
        "seconds": round(time.perf_counter() - started, 1),
    }
