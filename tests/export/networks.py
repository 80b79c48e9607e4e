"""Builds the networks and tasks that the export tests use."""

from typing import get_args

import numpy as np
import torch

import synthetic
from userbert.model.userbert import UserBert, UserBertConfig
from userbert.tasks.label_files import Kind
from userbert.tasks.labels import Labels
from userbert.tasks.task_model import TaskModel

PAPER = synthetic.TINY
DEFAULT = PAPER.model_copy(
    update={
        "pool": "all", "word_sizes": True, "summary": True, "timing": True,
        "tells_hidden": True, "tells_future": True,
    }
)  # fmt: skip
CLS = PAPER.model_copy(update={"pool": "cls", "summary": True})
CONFIGS = {"paper": PAPER, "default": DEFAULT, "cls": CLS}
KINDS: tuple[Kind, ...] = get_args(Kind)


def network(config: UserBertConfig, seed: int = 0) -> UserBert:
    """Returns a random network whose vectors differ between users."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = synthetic.model(config=config)
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(5)
    return model.eval()


def task(kind: Kind, config: UserBertConfig = PAPER, seed: int = 0) -> TaskModel:
    """Returns a random task model whose scores differ between users."""
    classes = ("apple", "bread", "cheese") if kind in ("multiclass", "multilabel") else ()
    none = np.zeros(0, np.int64)
    labels = Labels("tastes", "What comes next?", kind, (), none, none, classes, horizon="14d")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = TaskModel(network(config, seed), labels)
        torch.nn.init.normal_(model.head.weight, std=0.2)
    model.head.center.fill_(3.5 if kind == "regression" else 0.0)
    model.head.spread.fill_(2.0 if kind == "regression" else 1.0)
    return model.eval()
