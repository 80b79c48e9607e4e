"""Writes pages of published figures: Markdown tables from JSON results.

In: a JSON file of results with its provenance. Out: a page with its rows. Run it by
`python -m research.results_pages docs/results/NAME.json`; it writes NAME.md next to it, and a test
checks that the page is up to date.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from userbert.folders import read_json


def page(content: Mapping[str, Any], name: str) -> str:
    """Returns the page of results called `name`.

    Training benchmarks and evaluations have their own tables; other rows have a column per key.
    """
    first = content["rows"][0]
    table = _speed if "gflops" in first else _scores if "splits" in first else _plain
    record = content["made"]
    seeds = ", ".join(map(str, record["seeds"]))
    provenance = [
        f"`{record['command']}`", record["date"][:10], f"commit {str(record['commit'])[:10]}",
        f"seeds {seeds}", record["machine"],
    ]  # fmt: skip
    if record["data"] is not None:
        provenance.append(f"data {record['data'][:10]}")
    return "\n".join(
        [f"# {name}", "", *table(content["rows"]), "", ", ".join(provenance) + ".", ""]
    )


def _speed(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns a table of a training benchmark, and the peak speed of the machine."""
    machine = rows[0]
    lines = [
        "Generated from the JSON file next to this page. A batch is 16 users; times are medians of "
        "turns, ratios are medians of the turns' ratios.",
        "",
        "| workload | ours | ms per batch | reference | ms per batch | ratio | GFLOP/s of useful "
        "work | 400,000 batches | peak memory |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [f"| {' | '.join(_speed_cells(row))} |" for row in rows]
    return [
        *lines,
        "",
        f"In the same run, products of large bf16 matrices reached {machine['gemm_gflops']} "
        f"GFLOP/s, and copies of large arrays {machine['bandwidth_gbs']} GB/s.",
    ]


def _speed_cells(row: Mapping[str, Any]) -> list[str]:
    """Returns the cells of one comparison with a reference."""
    return [
        row["workload"],
        row["variant"],
        f"{row['ours_ms']:.1f} (± {row['spread_ms'] / 2:.1f})",
        row["reference"],
        f"{row['reference_ms']:.0f}",
        f"**{row['ratio']:.1f}**",
        f"{row['gflops']:.0f}",
        f"{row['hours_400k']:.1f} h",
        f"{row['peak_memory_gib']:.2f} GiB",
    ]


def _plain(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns a table with a column per key; if rows have steps, only those of the last step."""
    last = [row for row in rows if row.get("step") == rows[-1].get("step")]
    keys = list(dict.fromkeys(key for row in last for key in row))
    return [
        "Generated from the JSON file next to this page.",
        "",
        f"| {' | '.join(key.replace('_', ' ') for key in keys)} |",
        "|" + "---|" * len(keys),
        *(f"| {' | '.join(_plain_cell(row.get(key, '')) for key in keys)} |" for row in last),
    ]


def _plain_cell(value: object) -> str:
    """Formats a value with four digits if it is a float; empty if it is None."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _scores(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns a table of an evaluation, models by tasks, and the number of labels of each task.

    A task has its first metric only.
    """
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    metrics = {task: next(row["metric"] for row in rows if row["task"] == task) for task in tasks}
    rows = [row for row in rows if row["metric"] == metrics[row["task"]]]
    models = list(dict.fromkeys(row["model"] for row in rows))
    lines = [
        "Generated from the JSON file next to this page; means with 95 % intervals.",
        "",
        "| model | " + " | ".join(f"{task} ({metrics[task]})" for task in tasks) + " |",
        "|---|" + "---|" * len(tasks),
    ]
    for model in sorted(models, key=lambda model: " " in model):
        cells = [
            next((_cell(row) for row in rows if (row["task"], row["model"]) == (task, model)), "")
            for task in tasks
        ]
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    counts = {row["task"]: row["labels"] for row in rows}
    return [*lines, "", "Labels: " + ", ".join(f"{t} {counts[t]:,}" for t in tasks) + "."]


def _cell(row: Mapping[str, Any]) -> str:
    """Formats a mean with its interval."""
    mean, low, high = (f"{row[key]:.3f}" for key in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        path = Path(argument)
        path.with_suffix(".md").write_text(page(read_json(path), path.stem), encoding="utf-8")
