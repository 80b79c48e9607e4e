"""Published figures as pages: a JSON of results → Markdown tables.

In: a `report.json` with its provenance. Out: a page that says nothing the JSON does not. Run it by
`python -m userbert.experiments.results docs/results/NAME.json`; it writes NAME.md beside it, and a
test holds the two equal.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from userbert.folders import read_json


def page(content: Mapping[str, Any], name: str) -> str:
    """A page of an evaluation's rows: a table of models by tasks, then the paired differences."""
    rows = content["rows"]
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    first = {task: next(row["metric"] for row in rows if row["task"] == task) for task in tasks}
    rows = [row for row in rows if row["metric"] == first[row["task"]]]
    models = list(dict.fromkeys(row["model"] for row in rows))
    lines = [
        f"# {name}",
        "",
        "Made from the JSON beside it; means with 95 % intervals.",
        "",
        "| model | " + " | ".join(f"{task} ({first[task]})" for task in tasks) + " |",
        "|---|" + "---|" * len(tasks),
    ]
    for model in sorted(models, key=lambda model: " " in model):
        cells = [
            next((_cell(row) for row in rows if (row["task"], row["model"]) == (task, model)), "")
            for task in tasks
        ]
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    counts = {row["task"]: row["labels"] for row in rows}
    made = content["made"]
    lines += [
        "",
        "Labels: " + ", ".join(f"{task} {counts[task]:,}" for task in tasks) + ".",
        "",
        f"`{made['command']}`, {made['date'][:10]}, commit {str(made['commit'])[:10]}, pretraining "
        f"seeds {', '.join(map(str, made['seeds']))}, {made['machine']}, data "
        f"{str(made['data'])[:10]}.",
        "",
    ]
    return "\n".join(lines)


def _cell(row: Mapping[str, Any]) -> str:
    mean, low, high = (f"{row[key]:.3f}" for key in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        path = Path(argument)
        path.with_suffix(".md").write_text(page(read_json(path), path.stem), encoding="utf-8")
