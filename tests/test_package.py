"""The package as others see it: its public names, its imports, what it does without torch."""

import subprocess
import sys

import pytest

import userbert

EXTRA_TRAIN = ["torch", "scipy", "sklearn", "lightgbm", "matplotlib", "jinja2", "safetensors"]
TRACKERS = ["tensorboard", "mlflow"]
BASE_INSTALL = [
    "userbert",
    "userbert.data.prepare.prepare",
    "userbert.data.use.sequences",
    "userbert.data.use.timeline",
    "userbert.tasks.labels",
    "userbert.tasks.metrics",
    "userbert.inspection",
    "userbert.search.lookalike",
    "userbert.search.neighbours",
    "userbert.export.backend",
    "userbert.cli",
]
TORCH_FREE = [
    *BASE_INSTALL,
    "userbert.tasks.aggregates",
    "userbert.tasks.popularity",
    "userbert.export.backend",
    "userbert.export.runtime",
]


def test_public_names_are_these() -> None:
    assert userbert.__all__ == [
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
    for name in userbert.__all__:
        assert getattr(userbert, name) is not None


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'pretrian'"):
        userbert.pretrian  # noqa: B018 - the access is the test


@pytest.mark.parametrize("module", BASE_INSTALL)
def test_module_does_without_the_extra_train(module: str) -> None:
    extras = {*EXTRA_TRAIN, *TRACKERS}
    code = f"import sys, {module}; sys.exit(bool({extras} & {{*sys.modules}}))"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("module", TORCH_FREE)
def test_module_does_without_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_training_does_without_trackers() -> None:
    code = (
        "import sys, userbert.training.pretrain, userbert.tasks.finetune; "
        f"sys.exit(bool({{*{TRACKERS}}} & {{*sys.modules}}))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
