"""The public package: its names, its imports, and modules that do without torch."""

import ast
import subprocess
import sys
from pathlib import Path

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


def imported(statements: list[ast.stmt]) -> dict[str, str]:
    """Names that statements import from userbert, and the modules that they come from."""
    return {
        name.name: statement.module
        for statement in statements
        if isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith("userbert")
        for name in statement.names
        if statement.module
    }


def test_public_names_are_exactly_the_imported_ones() -> None:
    statements = ast.parse(Path(userbert.__file__).read_text(encoding="utf-8")).body
    [type_checking] = [part for part in statements if isinstance(part, ast.If)]
    eager, lazy = imported(statements), imported(type_checking.body)
    assert lazy == userbert._LAZY
    assert eager.keys().isdisjoint(lazy)
    assert sorted([*eager, *lazy]) == userbert.__all__


@pytest.mark.parametrize("name", userbert.__all__)
def test_public_name_resolves_to_a_documented_object(name: str) -> None:
    public = getattr(userbert, name)
    assert public.__name__ == name
    assert public.__module__.startswith("userbert.")
    assert public.__doc__


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
