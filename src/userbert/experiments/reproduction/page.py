"""Writes the page of the reproduction, `docs/explanation/reproduction.md`, from results.

In: every `results.json` in a folder or below, and the plots next to them. Out: a page whose numbers
and verdicts are all computed from the rows. Run it by
`python -m userbert.experiments.reproduction.page RESULTS_DIR OUT.md`. Explanations are not in the
rows: people write them into the page `CAUSES`. It is linked if it exists.
"""

import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from userbert.errors import InputError
from userbert.experiments.reproduction.claims import CLAIMS, ONE_SEED, SIMILAR, judge
from userbert.experiments.reproduction.plots import write_figures
from userbert.experiments.reproduction.rows import (
    DATA,
    Row,
    differences,
    model_name,
    models,
    pick,
    scores,
    studies,
    values,
)
from userbert.experiments.reproduction.tables import TABLES, paired_differences, write_csv
from userbert.folders import read_json

CAUSES = "reproduction-causes.md"
"""Page with possible causes of the results, next to the page of results."""

_OPENING = """\
# The paper's experiments, repeated

Generated from `results.json` by `python -m userbert.experiments.reproduction.page`: all numbers and
verdicts are computed from its rows.

## What was done

The experiments of the paper's §4.5, on public data, since the paper's data are not public.
*Simulated logs* have the shape and the traits of the paper's ecosystem
([made, not measured](simulated-ecosystem.md)). *Complete Journey* is the log of 2,469 households of
a grocery chain. Its tasks replace the paper's: coupon campaigns for booking, the next category for
the next genre, having kids for being a parent, and income for owning a car, which is a different
question. Its only sessions are purchases, so it tests short-term behavior poorly.

Settings are those of §4.4: four blocks, width 128, four heads; at most 128 words per segment; Adam
with a learning rate of 1e-4; batches of 16 in pretraining and of 128 in fine-tuning, which is end
to end and lasts ten epochs; 80 % of a task's users for training, 20 % for testing. The paper
pretrains for 400,000 batches on 22.5 million users. The settings of each run, and where they differ
from §4.4 for all models, are listed below. On simulated logs the number of labels of a task is
proportional to the sixth root of the paper's number, which keeps the order of the tasks by size; on
Complete Journey a task has all available labels.

With fewer batches, models learn little at the paper's learning rates, so the rates here are several
times higher, the same for all models. They were chosen by single runs on the first seed: at 1e-3
UserBERT did not learn on Complete Journey, although LSTM and Wide&Deep did, so we took a rate at
which all models learn ([how](../decisions/0009-how-the-paper-is-reproduced.md)). On Complete
Journey one seed also ran with the paper's rates. Each pair of rates is shown separately.

Numbers are those of the last epoch, averaged over seeds; each seed has its own weights and test
users. The 95 % intervals cover other test users; they are wider if seeds differ by more than their
test users explain ([more on intervals](intervals.md)). With one seed, intervals do not cover the
variance of training, so no claim is judged by one seed. A model is *ahead* or *behind* if the
interval of its paired difference excludes zero, otherwise there is *no difference*. With three
seeds, more than one comparison in twenty finds a difference between equal models by chance.

References see more than the networks. LightGBM reads all history instead of a window, and so does
the *best single aggregate*, the column of LightGBM's input with the best ROC-AUC on the training
users. The oracle knows the hidden truth of the simulation. For attributes the truth is the label
itself, so the oracle of these tasks knows only the profile, and a model of behavior may be ahead
of it. CoLES has little to contrast in short histories: the median simulated user has eight words,
so many slices are nearly equal. Transformer + MTL with 30 % of the labels trains for as many
batches as with all labels, so it sees each user more often. Variations, at the end, change one
setting each.
"""

_TITLES = {
    "figure_3": ("Figure 3: user targeting", "The paper has a plot without numbers."),
    "figure_4": (
        "Figure 4: labels for multi-task pretraining",
        "The paper has a plot without numbers.",
    ),
    "figure_5": (
        "Figure 5: with and without pretraining",
        "The paper has a plot without numbers. A test loss that rises from its minimum is a sign "
        "of overfitting; the model with the smaller rise is ahead. The minimum is the "
        "lowest mean over seeds; the rise is computed for each seed, then averaged.",
    ),
    "table_2": (
        "Table 2: next genre",
        "The paper's numbers are for its own users: compare rankings and ratios, not levels.",
    ),
    "figure_6": ("Figure 6: attribute prediction", "The paper has a plot without numbers."),
    "pretraining_length": (
        "More pretraining: a variation",
        "The paper pretrains for 400,000 batches, and reports no smaller number. Zero batches is "
        "the same model fine-tuned from scratch. Each number is followed by its paired difference "
        "from the number of batches used elsewhere on this page.",
    ),
    "label_share": (
        "More labels: a variation",
        "A model is fine-tuned on a share of the training labels. Test users, pretraining and the "
        "number of epochs do not change, so a quarter of the labels is also a quarter of the "
        "steps. Each number is followed by its paired difference from all labels.",
    ),
}
VARIATIONS = ("pretraining_length", "label_share")
"""Experiments that change one setting; they are ours, not the paper's."""
_MADE = ("command", "date", "commit", "version", "seeds", "machine", "data")


def page(
    results: Sequence[Mapping[str, Any]],
    pictures: Mapping[str, str] | None = None,
    *,
    causes: bool = False,
) -> str:
    """Returns the page of several runs as Markdown.

    `pictures` are links to plots by `EXPERIMENT-STUDY`. With `causes`, the page links to `CAUSES`.
    """
    rows: list[Row] = [row for result in results for row in result["rows"]]
    lines = [*_OPENING.splitlines(), ""]
    for result in results:
        lines += _origin(result)
    lines += ["", "## What the paper claims", "", *_claims(rows)]
    if causes:
        lines += ["", f"[Possible causes]({CAUSES})."]
    for experiment, (title, paper) in _TITLES.items():
        experiment_rows = pick(rows, experiment=experiment)
        if experiment_rows:
            lines += ["", f"## {title}", "", paper]
            lines += _experiment(experiment_rows, experiment, pictures or {})
    return "\n".join(lines) + "\n"


def _origin(result: Mapping[str, Any]) -> Iterator[str]:
    """Yields a line with the provenance of a run, then a line per other key of its record."""
    record = result["made"]
    data_names = " and ".join(DATA.get(data, data) for data in values(result["rows"], "data"))
    seeds = ", ".join(map(str, record["seeds"]))
    origin = [
        f"`{record['command']}`", record["date"][:10], f"commit {_shortened(record['commit'])}",
        f"seeds {seeds}", record["machine"],
    ]  # fmt: skip
    if record["data"] is not None:
        origin.append(f"data {_shortened(record['data'])}")
    yield f"- **{data_names}**: {', '.join(origin)}."
    done, _, planned = str(record.get("parts", "")).partition(" of ")
    if done != planned:
        yield f"  - **Not finished: {record['parts']} jobs are done.**"
    for key, value in record.items():
        if key not in (*_MADE, "parts"):
            name = key.replace("_", " ")
            several = isinstance(value, list) and any(isinstance(item, Mapping) for item in value)
            yield from (f"  - {name}: {_as_text(item)}" for item in (value if several else [value]))


def _shortened(checksums: object) -> str:
    """Returns checksums or commits cut to ten digits each."""
    return ", ".join(checksum[:10] for checksum in str(checksums).split(", "))


def _as_text(value: object) -> str:
    """Formats a JSON value as prose, without keys that are null or empty."""
    if isinstance(value, Mapping):
        nonempty = {
            key.replace("_", " "): item for key, item in value.items() if item not in (None, [])
        }
        return "; ".join(f"{key} {_as_text(item)}" for key, item in nonempty.items())
    if isinstance(value, list):
        return ", ".join(
            f"({_as_text(item)})" if isinstance(item, Mapping) else _as_text(item) for item in value
        )
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _claims(rows: Sequence[Row]) -> list[str]:
    """Returns the claims with a column of verdicts per study, then the numbers behind them."""
    judgements_by_study = {
        study.name: [judge(claim, study.rows) for claim in CLAIMS] for study in studies(rows)
    }
    lines = [
        "The verdict is *agrees* if all comparisons of a claim agree, *does not agree* if one "
        "contradicts it, and *can't tell* otherwise. Three rules are ours. *Similar*: the whole "
        f"interval of the ROC-AUC difference is within ± {SIMILAR}. *By a margin in per cent*: the "
        "interval excludes zero and does not end below the paper's number. *Overfit*: from its "
        "minimum to the last epoch, the test loss rises more than with pretraining, by the paired "
        "interval.",
        "",
        f"| the paper | where | {' | '.join(judgements_by_study)} |",
        "|" + "---|" * (2 + len(judgements_by_study)),
    ]
    for number, claim in enumerate(CLAIMS):
        verdict_row = [judgements[number] for judgements in judgements_by_study.values()]
        verdicts = [judgement.verdict if judgement else "not run" for judgement in verdict_row]
        lines.append(f"| {claim.words} | {claim.where} | {' | '.join(verdicts)} |")
    for name, judgements in judgements_by_study.items():
        counts = Counter(judgement.verdict for judgement in judgements if judgement)
        verdict_counts = ", ".join(f"{verdict} {count}" for verdict, count in counts.most_common())
        if all(judgement.evidence == ONE_SEED for judgement in judgements if judgement):
            lines += ["", f"On {name} no claim is judged by {ONE_SEED}; its numbers are below."]
            continue
        lines += ["", f"On {name} ({verdict_counts}):", ""]
        lines += [
            f"- {claim.words}: **{judgement.verdict}**. {judgement.evidence}."
            for claim, judgement in zip(CLAIMS, judgements, strict=True)
            if judgement
        ]
    return lines


def _experiment(rows: Sequence[Row], experiment: str, pictures: Mapping[str, str]) -> Iterator[str]:
    """Yields the plot, table and differences of an experiment, study by study."""
    title, _ = _TITLES[experiment]
    for study in studies(rows):
        study_rows = study.rows
        yield from ["", f"### {title.split(':')[0]}, {study.name}", ""]
        picture = pictures.get(f"{experiment}-{study.slug}")
        if picture:
            yield from [f"![{title}, {study.name}]({picture})", ""]
        yield from [*TABLES[experiment](study_rows), "", _seeds(study_rows)]
        if differences(study_rows) and experiment not in VARIATIONS:
            yield from ["", "Paired differences:", "", *paired_differences(study_rows, experiment)]


def _seeds(rows: Sequence[Row]) -> str:
    """Returns a sentence with the usual number of seeds, and the models with another number."""
    per_model = {model: pick(rows, model=model)[0]["seeds"] for model in models(scores(rows))}
    usual, _ = Counter(per_model.values()).most_common(1)[0]
    exceptions = [
        f"{model_name(model)} {seeds or 0}" for model, seeds in per_model.items() if seeds != usual
    ]
    return f"Pretraining seeds: {'; '.join([str(usual or 0), *exceptions])}."


def publish(results: Mapping[str, Any], folder: Path) -> Path:
    """Writes the CSV, plots and page of a run into its folder; returns the path of the page."""
    write_csv(results["rows"], folder / "results.csv")
    pictures = {path.stem: path.name for path in write_figures(results["rows"], folder)}
    path = folder / "reproduction.md"
    path.write_text(page([results], pictures), encoding="utf-8")
    return path


def main(folder: Path, output: Path) -> None:
    """Writes the page of all `results.json` in `folder` or below; raises `InputError` if none."""
    files = sorted(folder.rglob("results.json"))
    if not files:
        raise InputError(f"{folder} has no results.json. Run `userbert reproduce` first.")
    pictures = {
        picture.stem: Path(os.path.relpath(picture, output.parent)).as_posix()
        for file in files
        for picture in sorted(file.parent.glob("*.svg"))
    }
    causes = (output.parent / CAUSES).exists()
    text = page([read_json(file) for file in files], pictures, causes=causes)
    output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
