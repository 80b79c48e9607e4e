"""Service in the test process, with an untrained model and two untrained tasks."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from starlette.testclient import TestClient

from small_logs import SCHEMA, prepare_events
from userbert.data.store import PreparedData
from userbert.model.userbert import UserBert, UserBertConfig
from userbert.service.app import Settings, create_app
from userbert.service.loaded_models import load_models
from userbert.tasks.labels import Labels
from userbert.tasks.task_model import TaskModel

PROFILE = """
profile:
  path: people.csv
  fields:
    age: {column: age, bins: 3}
"""


def make_service_folder(folder: Path, events: pl.DataFrame) -> Path:
    """Prepares events and saves `model`, `returns` and `genre`; returns the data's folder."""
    people = events.select("user").unique().with_columns(age=20.0)
    data = prepare_events(folder, events, SCHEMA + PROFILE, profile=people)
    torch.manual_seed(0)
    config = UserBertConfig(layers=1, hidden=16, heads=2, feed_forward=32, attribute_width=8)
    model = UserBert(config, data.input_shape(), schema=data.schema, vocabularies=data.vocabularies)
    model.save_pretrained(folder / "model")
    empty = np.zeros(0, np.int64)
    labels = Labels(
        name="returns", question="does it return?", kind="binary", classes=(), attribute=None,
        hide=(), horizon=None, user_ids=(), cutoffs=empty, targets=empty,
    )  # fmt: skip
    TaskModel(model, labels).save(folder / "returns")
    genre = replace(labels, name="genre", kind="multiclass", classes=("bread", "milk", "wine"))
    TaskModel(model, genre).save(folder / "genre")
    return data.path


def client_of(
    folder: Path,
    *names: str,
    data: Path | None = None,
    runs: Path | None = None,
    **settings: Any,
) -> TestClient:
    """Creates a client of a service with the models of a folder."""
    models = load_models([folder / name for name in names], "torch")
    prepared_data = None if data is None else PreparedData.open(data)
    app = create_app(models, Settings(**settings), prepared_data, runs)
    return TestClient(app, base_url="http://localhost", raise_server_exceptions=False)
