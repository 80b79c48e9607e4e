"""Measures how far fast training steps drift from the reference step in float32.

In: nothing; all learners have the same initial weights, batches and selected words, without
dropout. Out: a row per learner and step, and a figure. Run it by `python -m research.fidelity
docs/results/fidelity.json`; the figure is written next to it.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from userbert.benchmarks.train import Learner, ours, reference
from userbert.benchmarks.workloads import WORKLOADS, draw_batches
from userbert.folders import write_json
from userbert.model.userbert import UserBertConfig
from userbert.progress import progress
from userbert.provenance import provenance_record

STEPS = 300
"""Number of training steps of each learner."""
_REFERENCE = "reference, float32"
"""Learner that the others are compared with."""
_EVERY = 10
"""Number of steps between comparisons of the weights; losses are averaged over them."""
_NO_DROPOUT = UserBertConfig(dropout=0.0)
"""The paper's network without dropout, so that steps differ only by arithmetic."""


def make_learners() -> dict[str, Learner]:
    """Returns the learners by name; the first is the float32 reference."""
    return {
        _REFERENCE: reference(trimmed=True, bf16=False, config=_NO_DROPOUT),
        "reference, bf16 autocast": reference(trimmed=True, bf16=True, config=_NO_DROPOUT),
        "ours, exact, bf16": ours(None, config=_NO_DROPOUT),
        "ours, exact, float32": ours(None, config=_NO_DROPOUT, precision="float32"),
    }


def drift(steps: int = STEPS) -> list[dict[str, Any]]:
    """Returns rows of the distances of losses and encoder weights from the float32 reference.

    Distances are relative. The distance of losses is a mean over the last `_EVERY` steps.
    """
    batches = [
        batch
        for seed in range(-(-steps // 32))
        for batch in draw_batches(WORKLOADS["sparse"], seed)
    ][:steps]
    learners = make_learners()
    rows = []
    loss_distances = dict.fromkeys(learners, 0.0)
    with progress("steps", steps) as advance:
        for number, batch in enumerate(batches):
            losses = {name: learner.step(batch, number) for name, learner in learners.items()}
            for name, loss in losses.items():
                loss_distances[name] += abs(loss / losses[_REFERENCE] - 1)
            if (number + 1) % _EVERY == 0:
                reference_weights = learners[_REFERENCE].encoder_weights()
                for name, learner in learners.items():
                    distance = (
                        learner.encoder_weights() - reference_weights
                    ).norm() / reference_weights.norm()
                    rows.append(
                        {
                            "step": number + 1,
                            "model": name,
                            "loss": losses[name],
                            "loss_distance": loss_distances[name] / _EVERY,
                            "weight_distance": distance.item(),
                        }
                    )
                loss_distances = dict.fromkeys(learners, 0.0)
            advance(1, "")
    return rows


def plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draws the distances by step as SVG."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "userbert", "svg.fonttype": "none"}):
        figure = Figure(figsize=(9, 3.5), layout="constrained")
        titles = {
            "loss_distance": "loss: mean relative distance",
            "weight_distance": "encoder weights: relative distance",
        }
        for axes, (key, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
            for name in dict.fromkeys(row["model"] for row in rows):
                if name != _REFERENCE:
                    model_rows = [row for row in rows if row["model"] == name]
                    axes.plot(
                        [row["step"] for row in model_rows],
                        [row[key] for row in model_rows],
                        label=name,
                    )
            axes.set(xlabel="step", title=title, yscale="log")
        axes.legend(frameon=False)
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    torch.manual_seed(0)
    output = Path(sys.argv[1])
    drift_rows = drift()
    command = ["python", "-m", "research.fidelity", *sys.argv[1:]]
    write_json(output, {"made": provenance_record(command, [0], None), "rows": drift_rows})
    plot(drift_rows, output.with_suffix(".svg"))
