"""Measures the quality loss of a sampled softmax, after the same steps as the exact softmax.

In: the folder of a simulated ecosystem. Out: rows of the exact loss on held-out users, of probes of
frozen vectors for hidden traits, and of their paired differences. Run it by `python -m
research.sampling ECOSYSTEM docs/results/sampling.json`; models of an interrupted run stay in a
folder next to the JSON and are reused.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from userbert.data.prepare.prepare import prepare
from userbert.data.ragged import Floats
from userbert.data.store import PreparedData
from userbert.folders import write_json
from userbert.model.userbert import UserBert
from userbert.provenance import provenance_record
from userbert.schema.models import Schema
from userbert.tasks.metrics import Estimate, estimate, resample_users
from userbert.training.pretrain import pretrain
from userbert.training.settings import configure

STEPS = 4_000
"""Number of pretraining batches of each model."""
SEEDS = (0, 1)
"""Pretraining seeds."""
TRAITS = ("parent", "car_owner", "pet_owner")
"""Hidden traits that vectors are probed for."""
_SOFTMAXES = ("exact", "sampled")
"""Softmaxes that are compared, as in the setting `softmax`."""
_FOLDS = 5
"""Number of cross-validation folds of a probe."""


def compare(ecosystem: Path, work: Path) -> tuple[str, list[dict[str, Any]]]:
    """Prepares data and pretrains models in `work`; returns the data's checksum, and the rows."""
    folder = work / "data"
    if not folder.exists():
        prepare(Schema.load(ecosystem / "schema.yaml"), folder)
    data = PreparedData.open(folder)
    models = {
        softmax: [_pretrain(data, work, softmax, seed) for seed in SEEDS] for softmax in _SOFTMAXES
    }
    rows = [
        {
            "model": softmax,
            "seed": seed,
            "metric": "validation_loss",
            "mean": model.record["validation"]["loss"],
        }
        for softmax, softmax_models in models.items()
        for seed, model in zip(SEEDS, softmax_models, strict=True)
    ]
    exact, sampled = (
        np.mean([model.record["validation"]["loss"] for model in models[softmax]])
        for softmax in _SOFTMAXES
    )
    rows.append(
        {"model": "sampled / exact", "metric": "validation_loss", "mean": float(sampled / exact)}
    )
    truth = pl.read_parquet(ecosystem / "truth" / "*.parquet")
    vectors = {
        softmax: [model.embed(data, data.schema.fit_before) for model in softmax_models]
        for softmax, softmax_models in models.items()
    }
    for trait in TRAITS:
        rows += _probe(trait, truth, vectors)
    return data.checksum, rows


def _pretrain(data: PreparedData, work: Path, softmax: str, seed: int) -> UserBert:
    """Returns a pretrained model, which the folder `work` keeps."""
    output = work / f"{softmax}-{seed}"
    config = configure("paper", [f"softmax={softmax}", f"steps={STEPS}"])
    pretrain(data, output, preset="paper", config=config, seed=seed, resume=True)
    return UserBert.from_pretrained(output)


def _probe(
    trait: str, truth: pl.DataFrame, vectors: Mapping[str, Sequence[pl.DataFrame]]
) -> list[dict[str, Any]]:
    """Returns rows of the out-of-fold ROC-AUC of a trait, by logistic regression on vectors."""
    users = vectors["exact"][0].select("user_id").join(truth, on="user_id", maintain_order="left")
    targets = users[trait].to_numpy().astype(np.int64)
    ids = users["user_id"].to_list()
    folds = np.zeros(len(ids), np.int64)
    weights = resample_users(ids, resamples=300)
    estimates: dict[str, Estimate] = {}
    for softmax, frames in vectors.items():
        scores = [_out_of_fold(frame["embedding"].to_numpy(), targets) for frame in frames]
        estimates[softmax] = estimate("roc_auc", targets, scores, folds, weights)
    estimates["sampled - exact"] = estimates["sampled"].minus(estimates["exact"])
    return [
        {
            "model": model,
            "task": trait,
            "metric": "roc_auc",
            "mean": result.value,
            "low": result.low,
            "high": result.high,
            "labels": len(ids),
        }
        for model, result in estimates.items()
    ]


def _out_of_fold(vectors: NDArray[np.float32], targets: NDArray[np.int64]) -> Floats:
    """Returns out-of-fold probabilities of the targets, from vectors (users, width)."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=0)
    scores: Floats = cross_val_predict(model, vectors, targets, cv=folds, method="predict_proba")
    return scores[:, 1]


if __name__ == "__main__":
    logs, output = map(Path, sys.argv[1:])
    checksum, rows = compare(logs, output.with_suffix(".work"))
    command = ["python", "-m", "research.sampling", *sys.argv[1:]]
    write_json(output, {"made": provenance_record(command, SEEDS, checksum), "rows": rows})
