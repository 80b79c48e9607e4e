"""Vectors of who users are, learned from logs of what they do.

The names below are the public surface. Those that need torch are imported when they are first
used, so `import userbert` works in the base install.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from userbert.data.prepare import prepare
from userbert.data.store import PreparedData
from userbert.errors import (
    DataError,
    InputError,
    LabelError,
    ModelError,
    SchemaError,
    SourceError,
    UserBertError,
)
from userbert.schema import Schema
from userbert.serving.lookalike import lookalike
from userbert.tasks.labels import Labels

if TYPE_CHECKING:
    from userbert.model.userbert import UserBert
    from userbert.serving.user_embedder import UserEmbedder
    from userbert.tasks.evaluate import evaluate
    from userbert.tasks.explain import explain
    from userbert.tasks.finetune import TaskModel, finetune
    from userbert.training.pretrain import pretrain

_NEED_TORCH = {
    "UserBert": "userbert.model.userbert",
    "pretrain": "userbert.training.pretrain",
    "finetune": "userbert.tasks.finetune",
    "TaskModel": "userbert.tasks.finetune",
    "evaluate": "userbert.tasks.evaluate",
    "explain": "userbert.tasks.explain",
    "UserEmbedder": "userbert.serving.user_embedder",
}

__all__ = [
    "DataError",
    "InputError",
    "LabelError",
    "Labels",
    "ModelError",
    "PreparedData",
    "Schema",
    "SchemaError",
    "SourceError",
    "TaskModel",
    "UserBert",
    "UserBertError",
    "UserEmbedder",
    "evaluate",
    "explain",
    "finetune",
    "lookalike",
    "prepare",
    "pretrain",
]


def __getattr__(name: str) -> Any:
    if name not in _NEED_TORCH:
        raise AttributeError(f"module 'userbert' has no attribute {name!r}")
    try:
        return getattr(import_module(_NEED_TORCH[name]), name)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise InputError(
            f"userbert.{name} needs torch. Install it with: pip install 'userbert[train]'"
        ) from error
