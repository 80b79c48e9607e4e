"""Fine-tuning: trains a pretrained network and a head on labels (paper §4.4).

In: a `UserBert`, prepared data, `Labels`. Out: a `TaskModel`, which scores users and can be saved
as a task folder. The head starts as a regression on the pretrained vectors (a linear probe); then
the whole network is trained end to end by the one training loop. `evaluate` and the command line
use it.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from userbert.data.ragged import Floats, Int64
from userbert.data.store import PreparedData
from userbert.data.use.pairs import Pairs
from userbert.errors import LabelError
from userbert.model.userbert import UserBert, embed_pairs
from userbert.schema.strict import Strict
from userbert.tasks.labelled_batches import LabelledBatches
from userbert.tasks.labels import Labels
from userbert.tasks.metrics import map_at_k, roc_auc_or_chance
from userbert.tasks.splits import split_off_validation
from userbert.tasks.task_head import mean_loss
from userbert.tasks.task_model import TaskModel
from userbert.training.loop import LoopConfig, train
from userbert.training.pretrain import fingerprint
from userbert.training.tracking import Tracker, Tracking

__all__ = ["FinetuneConfig", "TaskModel", "finetune", "quality", "refuse_hidden", "refuse_leaks"]

PENALTIES = tuple(10.0**power for power in range(1, -4, -1))
"""L2 penalties tried for the linear probe, strongest first: each fit starts from the previous."""
MAX_PROBED_CLASSES = 20
"""Maximum number of classes with a linear probe; with more, the probe would take longer than
fine-tuning itself."""


class FinetuneConfig(Strict):
    """Settings of fine-tuning.

    The weights of the best epoch are kept. The defaults differ from the paper's (1e-4, batches of
    128, ten epochs, §4.4), which give too few steps with a few hundred labels.
    """

    learning_rate: float = Field(default=3e-4, gt=0)
    """Adam's learning rate at the first step; it falls linearly to zero."""
    batch_size: int = Field(default=32, ge=1)
    """Number of labels in a batch."""
    epochs: int = Field(default=3, ge=1)
    """Number of passes over the training labels."""
    max_words: int | None = Field(default=None, ge=1)
    """Approximate maximum number of words in all batches; may end an epoch early; `None`: no
    limit."""
    validation: float = Field(default=0.1, gt=0, lt=1)
    """Share of the users held out to choose the best epoch: about this share, at most half."""
    seed: int = Field(default=0, ge=0)
    """Random seed of the held-out users, new weights, the order of the labels, and dropout."""


def finetune(
    model: UserBert,
    data: PreparedData,
    labels: Labels | Any,
    *,
    config: FinetuneConfig | None = None,
    from_scratch: bool = False,
    train_on: Int64 | None = None,
    validate_on: Int64 | None = None,
    trackers: Sequence[Tracker] = (),
) -> TaskModel:
    """Fine-tunes a model on a task (paper §4.4) and returns the task model; `model` is unchanged.

    `labels` are `Labels`, or a frame of `user_id`, `label` and optionally `cutoff`. `from_scratch`
    starts from new random weights instead of the pretrained ones. `train_on` and `validate_on` are
    indices into the labels; without `validate_on` a share of the users is held out. `trackers`
    receive the settings and every line of metrics. Raises `LabelError` if the labels cannot be used
    with the data, if the model reads fields that they hide, or if pretraining saw events after a
    cut-off (not with `from_scratch`); `ModelError` if the data's vocabularies or words differ from
    the model's.
    """
    config = config or FinetuneConfig()
    labels = labels if isinstance(labels, Labels) else Labels.of(labels, data)
    model.check_fits(data)
    refuse_hidden(model, labels)
    if not from_scratch:
        refuse_leaks(model, data, labels)
    train_rows = np.arange(len(labels)) if train_on is None else train_on
    if validate_on is None:
        train_rows, validate_on = split_off_validation(
            labels.user_ids, _strata(labels), train_rows, config.seed, config.validation
        )
    task = _new_task(model, labels, train_rows, config.seed, from_scratch)
    pairs = Pairs(data.rows_of(labels.user_ids), labels.cutoffs)
    batches = LabelledBatches(
        data, pairs, train_rows, batch_size=config.batch_size, seed=config.seed, hidden=task.hidden
    )
    precision = model.fastest_precision(next(task.parameters()).device)
    is_probed = not from_scratch and len(labels.classes) <= MAX_PROBED_CLASSES
    # The loop may end within an epoch, so the best epoch's weights are kept here.
    # The probe is evaluated first and counts as epoch 0.
    best = _BestEpoch(current=-1 if is_probed else 0)

    def validate() -> dict[str, float]:
        scores = task.scores(data, pairs.rows[validate_on], pairs.cutoffs[validate_on])
        value = quality(labels, labels.targets[validate_on], scores)
        best.note(value, task)
        return {"quality": value}

    if is_probed:
        _probe(task, data, pairs, labels, train_on=train_rows, validate_on=validate_on)
        validate()
    settings = {
        **config.model_dump(mode="json"),
        "from_scratch": from_scratch,
        "precision": precision,
        "labels": len(train_rows),
        "validation_labels": len(validate_on),
        "data": data.checksum,
    }
    train(
        task,
        lambda module, batch, _: {"task": mean_loss(module, module.head, batch, labels.targets)},
        batches,
        LoopConfig(
            steps=_steps(config, batches),
            learning_rate=config.learning_rate,
            decay=1,
            seed=config.seed,
            precision=precision,
            log_every=batches.per_epoch,
            checkpoint_every=batches.per_epoch,
        ),
        validate=validate,
        tracking=Tracking(trackers, settings),
        description=f"fine-tuning {labels.name}",
    )
    task.load_state_dict(best.weights)
    task.record = {
        **settings,
        "best_epoch": best.epoch,
        "quality": best.value,
        "pretraining": None if from_scratch else model.record,
    }
    return task.eval()


def quality(labels: Labels, targets: NDArray[Any], scores: Floats) -> float:
    """Returns the value of the metric by which epochs are chosen; higher is better.

    ROC-AUC for binary tasks, minus the mean squared error for regressions, else mAP@10.
    """
    if labels.kind == "binary":
        return roc_auc_or_chance(targets, scores)
    if labels.kind == "regression":
        return -float(np.mean((scores - targets) ** 2))
    if labels.kind == "multiclass":
        targets = targets[:, None] == np.arange(len(labels.classes))
    return map_at_k(scores, targets)


def _steps(config: FinetuneConfig, batches: LabelledBatches) -> int:
    """Returns the number of training steps that `epochs` and `max_words` allow."""
    steps = config.epochs * batches.per_epoch
    if config.max_words is None:
        return steps
    per_step = batches.words_per_epoch / batches.per_epoch
    return max(1, min(steps, int(config.max_words / max(1, per_step))))


def refuse_hidden(model: UserBert, labels: Labels) -> None:
    """Raises `LabelError` if the model reads a field that the labels hide (design, decision 9)."""
    leaking = [name for name in labels.hide if name not in model.hidden]
    if leaking:
        options = " ".join(f"--hide {name}" for name in (*model.hidden, *leaking))
        raise LabelError(
            f"{labels.name}: the model sees {', '.join(leaking)}, which give the answer away "
            "(target leakage). Pretrain a model that does not see them: "
            f"userbert pretrain DATA -o MODEL {options}"
        )


def refuse_leaks(model: UserBert, data: PreparedData, labels: Labels) -> None:
    """Raises `LabelError` if pretraining saw events after a cut-off (design, decision 7).

    Cut-offs before the model's bound are allowed if the model was pretrained up to exactly these
    (user, cut-off) pairs (`at` of `pretrain`).
    """
    bound = model.record.get("before")
    early = 0 if bound is None else int(np.count_nonzero(labels.cutoffs < bound))
    if early == 0:
        return
    pairs = Pairs(data.rows_of(labels.user_ids), labels.cutoffs)
    if model.record.get("at") == fingerprint(data, pairs):
        return
    earliest = np.datetime_as_string(np.datetime64(int(labels.cutoffs.min()), "us"), unit="s")
    raise LabelError(
        f"{labels.name}: {early} of {len(labels)} labels have a cut-off before the end of the "
        "events that the model was pretrained on, so it may have seen the answers (future "
        "leakage). Pretrain a model on earlier events only: "
        f"userbert pretrain DATA -o MODEL --before {earliest}Z (or --at with the labels' file)"
    )


def _probe(
    task: TaskModel,
    data: PreparedData,
    pairs: Pairs,
    labels: Labels,
    *,
    train_on: Int64,
    validate_on: Int64,
) -> None:
    """Starts the head as the best linear probe of the pretrained vectors.

    A randomly started head would pull the network away from what pretraining learned (Kumar et
    al., 2022).
    """
    vectors, held = (
        torch.from_numpy(
            embed_pairs(task.user_bert, data, pairs.rows[on], pairs.cutoffs[on], pool=task.pool)
        )
        for on in (train_on, validate_on)
    )
    head, best, weights = task.head, -np.inf, {}
    for penalty in PENALTIES:
        head.probe(vectors, labels.targets[train_on], penalty)
        with torch.inference_mode():
            scores = head.scores(head(held)).numpy()
        value = quality(labels, labels.targets[validate_on], scores)
        if value > best:
            best, weights = value, deepcopy(head.state_dict())
    head.load_state_dict(weights)


def _new_task(
    model: UserBert, labels: Labels, train_rows: Int64, seed: int, from_scratch: bool
) -> TaskModel:
    """Returns an untrained task model: a copy of `model`, or new weights, with a new head."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if from_scratch:
            network = UserBert(
                model.config,
                model.shape,
                schema=model.schema,
                vocabularies=model.vocabularies,
                hidden=model.hidden,
            )
            if network.embedding.timing is not None and model.embedding.timing is not None:
                # Statistics of users' timing are not learned weights, so they are kept.
                network.embedding.timing.load_state_dict(model.embedding.timing.state_dict())
        else:
            network = deepcopy(model)
        task = TaskModel(network, labels)
        task.head.start(labels.targets[train_rows])
    return task


def _strata(labels: Labels) -> NDArray[Any]:
    """Returns the targets to stratify the split by; quantities are not stratified."""
    return np.zeros(len(labels)) if labels.kind == "regression" else labels.targets


@dataclass
class _BestEpoch:
    """Quality and weights of the best epoch so far; epoch 0 is the linear probe."""

    value: float = -np.inf
    """Quality of the best epoch."""
    epoch: int = 0
    """Number of the best epoch."""
    current: int = 0
    """Number of the epoch that was recorded last."""
    weights: dict[str, Tensor] = field(default_factory=dict)
    """State of the task model after the best epoch."""

    def note(self, value: float, task: nn.Module) -> None:
        """Records an epoch's quality; keeps its weights if it is the best."""
        self.current += 1
        if value > self.value:
            self.value, self.epoch = value, self.current
            self.weights = {name: tensor.clone() for name, tensor in task.state_dict().items()}
