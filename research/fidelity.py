"""How far the fast training step strays from the straightforward one in float32.

In: nothing; all learn from the same start, batches and selected words, without dropout. Out: a row
for each contestant and step, and a figure. Run it by
`python -m research.fidelity docs/results/fidelity.json`; the figure goes beside it.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from userbert.benchmarks.train import Contestant, ours, reference
from userbert.benchmarks.workloads import WORKLOADS, draw_batches
from userbert.folders import write_json
from userbert.model.userbert import UserBertConfig
from userbert.progress import progress
from userbert.provenance import made

STEPS = 300
_TRUTH = "reference, float32"
_EVERY = 10
"""Steps between two looks at the weights."""
_PLAIN = UserBertConfig(dropout=0.0)


def contestants() -> dict[str, Contestant]:
    """The reference in float32, which the others are held against, comes first."""
    return {
        _TRUTH: reference(trimmed=True, bf16=False, config=_PLAIN),
        "reference, bf16 autocast": reference(trimmed=True, bf16=True, config=_PLAIN),
        "ours, exact, bf16": ours(None, config=_PLAIN),
        "ours, exact, float32": ours(None, config=_PLAIN, precision="float32"),
    }


def drift(steps: int = STEPS) -> list[dict[str, Any]]:
    """Rows of how far losses and encoder weights are from those of the float32 reference."""
    batches = [
        batch
        for seed in range(-(-steps // 32))
        for batch in draw_batches(WORKLOADS["sparse"], seed)
    ][:steps]
    learners = contestants()
    rows = []
    sums = dict.fromkeys(learners, 0.0)
    with progress("steps", steps) as advance:
        for number, batch in enumerate(batches):
            losses = {name: learner.step(batch, number) for name, learner in learners.items()}
            for name, loss in losses.items():
                sums[name] += abs(loss / losses[_TRUTH] - 1)
            if (number + 1) % _EVERY == 0:
                true = learners[_TRUTH].encoder_weights()
                for name, learner in learners.items():
                    distance = (learner.encoder_weights() - true).norm() / true.norm()
                    rows.append(
                        {
                            "step": number + 1,
                            "model": name,
                            "loss": losses[name],
                            "loss_distance": sums[name] / _EVERY,
                            "weight_distance": distance.item(),
                        }
                    )
                sums = dict.fromkeys(learners, 0.0)
            advance(1, "")
    return rows


def plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the distances over the steps."""
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
                if name != _TRUTH:
                    own = [row for row in rows if row["model"] == name]
                    axes.plot([row["step"] for row in own], [row[key] for row in own], label=name)
            axes.set(xlabel="step", title=title, yscale="log")
        axes.legend(frameon=False)
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    torch.manual_seed(0)
    output = Path(sys.argv[1])
    found = drift()
    command = ["python", "-m", "research.fidelity", *sys.argv[1:]]
    write_json(output, {"made": made(command, [0], None), "rows": found})
    plot(found, output.with_suffix(".svg"))
