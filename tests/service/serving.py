"""A service in this process, for tests: a model and two tasks that have learned nothing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from starlette.testclient import TestClient

from small_logs import SCHEMA, prepared
from userbert.data.store import PreparedData
from userbert.model.userbert import UserBert, UserBertConfig
from userbert.service.app import Settings, create_app
from userbert.service.loaded_models import load_all
from userbert.tasks.labels import Labels
from userbert.tasks.task_model import TaskModel

PROFILE = """
profile:
  path: people.csv
  fields:
    age: {column: age, bins: 3}
"""


def make(folder: Path, events: pl.DataFrame) -> Path:
    """Prepare events, and write `model`, `returns` and `genre` beside them; the data's folder."""
    people = events.select("user").unique().with_columns(age=20.0)
    data = prepared(folder, events, SCHEMA + PROFILE, profile=people)
    torch.manual_seed(0)
    config = UserBertConfig(layers=1, hidden=16, heads=2, feed_forward=32, attribute_width=8)
    model = UserBert(config, data.input_shape(), schema=data.schema, vocabularies=data.vocabularies)
    model.save_pretrained(folder / "model")
    none = np.zeros(0, np.int64)
    yes = Labels(
        name="returns", question="does it return?", kind="binary", classes=(), attribute=None,
        hide=(), horizon=None, user_ids=(), cutoffs=none, targets=none,
    )  # fmt: skip
    TaskModel(model, yes).save(folder / "returns")
    genre = replace(yes, name="genre", kind="multiclass", classes=("bread", "milk", "wine"))
    TaskModel(model, genre).save(folder / "genre")
    return data.path


def client_of(
    folder: Path,
    *names: str,
    data: Path | None = None,
    runs: Path | None = None,
    **settings: Any,
) -> TestClient:
    """Call what is served from a folder."""
    served = load_all([folder / name for name in names], "torch")
    opened = None if data is None else PreparedData.open(data)
    app = create_app(served, Settings(**settings), opened, runs)
    return TestClient(app, base_url="http://localhost", raise_server_exceptions=False)
