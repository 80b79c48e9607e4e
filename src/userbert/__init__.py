"""Public names of userbert, which learns vectors of users from event logs.

Names that need torch or onnxruntime are imported on first use, so
`import userbert` works in the base install.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from userbert.data.prepare.prepare import prepare
from userbert.data.store import PreparedData
from userbert.data.use.live import UserEvents
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
from userbert.search.lookalike import lookalike
from userbert.tasks.labels import Labels

if TYPE_CHECKING:
    from userbert.embedding.user_embedder import UserEmbedder
    from userbert.evaluation.evaluate import evaluate
    from userbert.export.runtime import Runtime
    from userbert.model.userbert import UserBert
    from userbert.tasks.explain import explain
    from userbert.tasks.finetune import TaskModel, finetune
    from userbert.training.pretrain import pretrain

_LAZY = {
    "UserBert": "userbert.model.userbert",
    "pretrain": "userbert.training.pretrain",
    "finetune": "userbert.tasks.finetune",
    "TaskModel": "userbert.tasks.finetune",
    "evaluate": "userbert.evaluation.evaluate",
    "explain": "userbert.tasks.explain",
    "UserEmbedder": "userbert.embedding.user_embedder",
    "Runtime": "userbert.export.runtime",
}
"""Module of each name that is imported on first use."""
_EXTRAS = {"torch": "train", "onnxruntime": "serve"}
"""Extra of userbert (`pip install 'userbert[EXTRA]'`) by the optional package it installs."""

__all__ = [
    "DataError",
    "InputError",
    "LabelError",
    "Labels",
    "ModelError",
    "PreparedData",
    "Runtime",
    "Schema",
    "SchemaError",
    "SourceError",
    "TaskModel",
    "UserBert",
    "UserBertError",
    "UserEmbedder",
    "UserEvents",
    "evaluate",
    "explain",
    "finetune",
    "lookalike",
    "prepare",
    "pretrain",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'userbert' has no attribute {name!r}")
    try:
        return getattr(import_module(_LAZY[name]), name)
    except ModuleNotFoundError as error:
        if error.name not in _EXTRAS:
            raise
        raise InputError(
            f"userbert.{name} needs {error.name}. Install it with: "
            f"pip install 'userbert[{_EXTRAS[error.name]}]'"
        ) from error
