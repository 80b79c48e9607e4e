"""Fine-tuning: a pretrained network, a head, labels → a task model (paper §4.4).

In: a `UserBert`, prepared data, `Labels`. Out: `TaskModel`, which scores users and is saved in a
folder of its own. The head begins as a regression on the vectors that pretraining gave; then all
learns end to end, by the one training loop.
`evaluate`, `predict`, `explain` and the service use it.
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
from userbert.training.tracking import Tracked, Tracker

__all__ = ["FinetuneConfig", "TaskModel", "finetune", "quality", "refuse_hidden", "refuse_leaks"]

PENALTIES = tuple(10.0**power for power in range(1, -4, -1))
"""Of a head's squared weights before the network learns, the strongest first."""
FEW_CLASSES = 20
"""A regression to more of them takes longer than the network's own learning."""


class FinetuneConfig(Strict):
    """How a task is learned.

    The head starts as the best regression on fixed vectors, and the best epoch is kept. (The
    paper's 1e-4, batches of 128 and ten epochs, §4.4, make hundreds of labels too few steps.)
    """

    learning_rate: float = Field(default=3e-4, gt=0)
    """Of Adam, at the start; it falls evenly to nothing."""
    batch_size: int = Field(default=32, ge=1)
    """Users in a batch."""
    epochs: int = Field(default=3, ge=1)
    max_words: int | None = Field(default=None, ge=1)
    """Learn from about so many words in all at most: of many long histories, epochs end sooner."""
    validation: float = Field(default=0.1, gt=0, lt=1)
    """The share of users on whom epochs are compared; the best one's weights are kept."""
    seed: int = Field(default=0, ge=0)


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
    """Learn a task (paper §4.4) from labels, or a frame of `user_id`, `label`, perhaps `cutoff`.

    `from_scratch` starts from new weights in the model's size. `train_on` and `validate_on` are
    indices into the labels; without the second a share of the users is set apart.
    `trackers` are told the settings and every line of metrics. Raises `LabelError` if the labels
    leak (see `refuse_leaks`), `ModelError` if the data have other ids than the model.
    """
    config = config or FinetuneConfig()
    labels = labels if isinstance(labels, Labels) else Labels.of(labels, data)
    model.check_fits(data)
    refuse_hidden(model, labels)
    if not from_scratch:
        refuse_leaks(model, data, labels)
    chosen = np.arange(len(labels)) if train_on is None else train_on
    if validate_on is None:
        chosen, validate_on = split_off_validation(
            labels.user_ids, _classes(labels), chosen, config.seed, config.validation
        )
    task = _new_task(model, labels, chosen, config.seed, from_scratch)
    pairs = Pairs(data.rows_of(labels.user_ids), labels.cutoffs)
    batches = LabelledBatches(
        data, pairs, chosen, batch_size=config.batch_size, seed=config.seed, hidden=task.hidden
    )
    precision = model.fastest_precision(next(task.parameters()).device)
    is_probed = not from_scratch and len(labels.classes) <= FEW_CLASSES
    # The network stands in the middle of an epoch when the loop has ended; the best is kept here.
    # What a probe gives is looked at before the first epoch.
    best = _Best(seen=-1 if is_probed else 0)

    def validate() -> dict[str, float]:
        scores = task.scores(data, pairs.rows[validate_on], pairs.cutoffs[validate_on])
        value = quality(labels, labels.targets[validate_on], scores)
        best.note(value, task)
        return {"quality": value}

    if is_probed:
        _probe(task, data, pairs, labels, train_on=chosen, validate_on=validate_on)
        validate()
    settings = {
        **config.model_dump(mode="json"),
        "from_scratch": from_scratch,
        "precision": precision,
        "labels": len(chosen),
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
        tracked=Tracked(trackers, settings),
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
    """What is better the higher it is: ROC-AUC, mAP@10, or the mean squared error's negative."""
    if labels.kind == "binary":
        return roc_auc_or_chance(targets, scores)
    if labels.kind == "regression":
        return -float(np.mean((scores - targets) ** 2))
    if labels.kind == "multiclass":
        targets = targets[:, None] == np.arange(len(labels.classes))
    return map_at_k(scores, targets)


def _steps(config: FinetuneConfig, batches: LabelledBatches) -> int:
    steps = config.epochs * batches.per_epoch
    if config.max_words is None:
        return steps
    per_step = batches.words_per_epoch / batches.per_epoch
    return max(1, min(steps, int(config.max_words / max(1, per_step))))


def refuse_hidden(model: UserBert, labels: Labels) -> None:
    """Raise `LabelError` if a model sees a field that gives the labels away (decision 9)."""
    seen = [name for name in labels.hide if name not in model.hidden]
    if seen:
        fields = " ".join(f"--hide {name}" for name in (*model.hidden, *seen))
        raise LabelError(
            f"{labels.name}: the model sees {', '.join(seen)}, which give the answer away. "
            f"Pretrain one that does not: userbert pretrain DATA -o MODEL {fields}"
        )


def refuse_leaks(model: UserBert, data: PreparedData, labels: Labels) -> None:
    """Raise `LabelError` if pretraining saw what comes after a cut-off (design, decision 7).

    Cut-offs before the model's bound are allowed if it was pretrained up to exactly these pairs
    (`--at`).
    """
    bound = model.record.get("before")
    early = 0 if bound is None else int(np.count_nonzero(labels.cutoffs < bound))
    if early == 0:
        return
    pairs = Pairs(data.rows_of(labels.user_ids), labels.cutoffs)
    if model.record.get("at") == fingerprint(data, pairs):
        return
    first = np.datetime_as_string(np.datetime64(int(labels.cutoffs.min()), "us"), unit="s")
    raise LabelError(
        f"{labels.name}: {early} of {len(labels)} labels have a cut-off before the end of what the "
        f"model was pretrained on, so it has seen what they ask for. Pretrain one that has not: "
        f"userbert pretrain DATA -o MODEL --before {first}Z (or --at with the labels' file)"
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
    """Let the head begin as the best regression on the vectors that pretraining gave.

    A head that begins anywhere pulls the network along while it learns, and away from what
    pretraining knew (Kumar et al., 2022).
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
    model: UserBert, labels: Labels, chosen: Int64, seed: int, from_scratch: bool
) -> TaskModel:
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
                # What users' times are like is not learned.
                network.embedding.timing.load_state_dict(model.embedding.timing.state_dict())
        else:
            network = deepcopy(model)
        task = TaskModel(network, labels)
        task.head.start(labels.targets[chosen])
    return task


def _classes(labels: Labels) -> NDArray[Any]:
    """What is dealt evenly to both sides: classes, but not quantities."""
    return np.zeros(len(labels)) if labels.kind == "regression" else labels.targets


@dataclass
class _Best:
    """The best epoch so far."""

    value: float = -np.inf
    epoch: int = 0
    seen: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)

    def note(self, value: float, task: nn.Module) -> None:
        """Look at an epoch."""
        self.seen += 1
        if value > self.value:
            self.value, self.epoch = value, self.seen
            self.weights = {name: tensor.clone() for name, tensor in task.state_dict().items()}
