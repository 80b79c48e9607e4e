"""The page of the reproduction: results → `docs/explanation/reproduction.md`.

In: every `results.json` in a folder or below, and the figures beside them. Out: a page that says
nothing of models which the rows do not say. Run it by
`python -m userbert.experiments.reproduction.page RESULTS_DIR OUT.md`. Causes are not in the rows:
people write them into a page of its own beside this one, which is linked to if it is there.
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

_OPENING = """\
# The paper's experiments, repeated

Made from `results.json` by `python -m userbert.experiments.reproduction.page`: all that is said of
how models did is computed from its rows.

## What was done

The experiments of the paper's §4.5, on data that everybody can have: the paper's users are not
public. *Simulated logs* have the shape and the traits of the paper's ecosystem
([made, not measured](simulated-ecosystem.md)); *Complete Journey* is the log of 2,469 households of
a grocery, in place of the paper's services: targeting coupons for booking, the next category for
the next genre, kids for parents, and income for cars, which is another question. Complete Journey
has no sessions but its purchases, so it says little of short-term behavior.

Settings are those of §4.4: four blocks, width 128, four heads; at most 128 words a segment; Adam,
1e-4, batches of 16 in pretraining and of 128 in fine-tuning, which is end to end and lasts ten
epochs; 80 % of a task's users to learn from, 20 % to judge. The paper pretrains for 400,000
batches on 22.5 million users; what these runs did, and where they left §4.4 for all models alike,
is with each of them below. On simulated logs a task has labels in proportion to the sixth root of
the paper's number, which keeps the order of the tasks by size; on Complete Journey it has all that
there are.

With so few batches the paper's rates teach little, so those here are some times as fast, the same
for all models. They were found by single runs beforehand, on the first seed: at 1e-3 UserBERT did
not learn on Complete Journey, where LSTM and Wide&Deep did, so a rate was taken at which all do
([how](../decisions/0009-how-the-paper-is-reproduced.md)). On Complete Journey one seed has the
paper's rates as well. Each pair of rates is shown by itself.

Figures are of the last epoch, averaged over seeds, each with weights and test users of its own. The
95 % intervals say what other test users would have given; where seeds differ by more than their
test users explain, they are wider ([more on intervals](intervals.md)). With one seed they tell
nothing of the luck of training, so no claim is judged by one. A model is *ahead* or *behind* if the
interval of its paired difference leaves out zero; *no difference* means that it does not. With
three seeds, more than one comparison in twenty tells equal models apart by chance.

References see more than the networks. LightGBM has all history, not a window, and so has *the one
aggregate that tells the most*, a single column of LightGBM's that is chosen on the users to learn
from. The oracle knows what nobody can. On attributes the truth would be the answer, so the oracle
there knows the profile alone, and a model of behavior may well be ahead of it. CoLES has little to
contrast in short histories: the median simulated user has eight words, so that many slices are
nearly equal. Transformer + MTL with 30 % of the labels has as many batches as with all of them, so
it also sees each user more often. Variations, at the end, change one thing and leave all else as
it is.
"""

_TITLES = {
    "figure_3": ("Figure 3: user targeting", "The paper has a plot without numbers."),
    "figure_4": (
        "Figure 4: labels for multi-task pretraining",
        "The paper has a plot without numbers.",
    ),
    "figure_5": (
        "Figure 5: with and without pretraining",
        "The paper has a plot without numbers. A test loss that rises from its lowest is a sign of "
        "overfitting; who rises less is ahead. The lowest is that of the mean over seeds, the rise "
        "the mean of each seed's own.",
    ),
    "table_2": (
        "Table 2: next genre",
        "The paper's numbers are of its own users: rankings and ratios can be compared, levels "
        "cannot.",
    ),
    "figure_6": ("Figure 6: attribute prediction", "The paper has a plot without numbers."),
    "pretraining_length": (
        "More pretraining: a variation",
        "The paper pretrains for 400,000 batches, and says nothing of fewer. No batch at all is "
        "the same model fine-tuned from scratch. Behind a figure stands its paired difference from "
        "that of as many batches as elsewhere on this page.",
    ),
    "label_share": (
        "More labels: a variation",
        "The same test users, and some or all of the others to learn from, for as many epochs, so "
        "that a quarter of the labels is also a quarter of the steps. Pretraining is the same. "
        "Behind a figure stands its paired difference from that of all labels.",
    ),
}
VARIATIONS = ("pretraining_length", "label_share")
_MADE = ("command", "date", "commit", "version", "seeds", "machine", "data")


def page(
    results: Sequence[Mapping[str, Any]],
    pictures: Mapping[str, str] | None = None,
    *,
    causes: bool = False,
) -> str:
    """Write the page of some runs.

    `pictures` are links by `EXPERIMENT-STUDY`; `causes` tells whether people wrote of causes.
    """
    rows: list[Row] = [row for result in results for row in result["rows"]]
    lines = [*_OPENING.splitlines(), ""]
    for result in results:
        lines += _origin(result)
    lines += ["", "## What the paper claims", "", *_claims(rows)]
    if causes:
        lines += ["", f"[Why, as far as it was looked into]({CAUSES})."]
    for experiment, (title, paper) in _TITLES.items():
        mine = pick(rows, experiment=experiment)
        if mine:
            lines += ["", f"## {title}", "", paper]
            lines += _experiment(mine, experiment, pictures or {})
    return "\n".join(lines) + "\n"


def _origin(result: Mapping[str, Any]) -> Iterator[str]:
    """Say where a run's rows come from, and all else that the run says of itself."""
    made = result["made"]
    of = " and ".join(DATA.get(data, data) for data in values(result["rows"], "data"))
    seeds = ", ".join(map(str, made["seeds"]))
    origin = [
        f"`{made['command']}`", made["date"][:10], f"commit {_shortened(made['commit'])}",
        f"seeds {seeds}", made["machine"],
    ]  # fmt: skip
    if made["data"] is not None:
        origin.append(f"data {_shortened(made['data'])}")
    yield f"- **{of}**: {', '.join(origin)}."
    done, _, planned = str(made.get("parts", "")).partition(" of ")
    if done != planned:
        yield f"  - **Not finished: {made['parts']} parts are done.**"
    for key, value in made.items():
        if key not in (*_MADE, "parts"):
            name = key.replace("_", " ")
            several = isinstance(value, list) and any(isinstance(one, Mapping) for one in value)
            yield from (f"  - {name}: {_told(one)}" for one in (value if several else [value]))


def _shortened(checksums: object) -> str:
    """Cut each of some checksums, or of a run's commits, to ten digits."""
    return ", ".join(one[:10] for one in str(checksums).split(", "))


def _told(value: object) -> str:
    if isinstance(value, Mapping):
        known = {key.replace("_", " "): one for key, one in value.items() if one not in (None, [])}
        return "; ".join(f"{key} {_told(one)}" for key, one in known.items())
    if isinstance(value, list):
        return ", ".join(
            f"({_told(one)})" if isinstance(one, Mapping) else _told(one) for one in value
        )
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _claims(rows: Sequence[Row]) -> list[str]:
    """Set the claims beside the verdicts, a column a study; then the figures behind them."""
    judged = {study.name: [judge(claim, study.rows) for claim in CLAIMS] for study in studies(rows)}
    lines = [
        "What was seen *agrees* with a claim if each comparison does, and *does not agree* if one "
        "says the opposite; else one *can't tell*. Three rules are ours. *Similar*: the whole "
        f"interval lies within ± {SIMILAR} of ROC-AUC. *By so many per cent*: the interval leaves "
        "out zero, and does not end below the paper's number. *Overfit*: from its lowest epoch to "
        "the last, the test loss rises more than with pretraining, by the paired interval.",
        "",
        f"| the paper | where | {' | '.join(judged)} |",
        "|" + "---|" * (2 + len(judged)),
    ]
    for number, claim in enumerate(CLAIMS):
        parts = [judgements[number] for judgements in judged.values()]
        verdicts = [part.verdict if part else "not run" for part in parts]
        lines.append(f"| {claim.words} | {claim.where} | {' | '.join(verdicts)} |")
    for name, judgements in judged.items():
        counts = Counter(judgement.verdict for judgement in judgements if judgement)
        told = ", ".join(f"{verdict} {count}" for verdict, count in counts.most_common())
        if all(judgement.found == ONE_SEED for judgement in judgements if judgement):
            lines += ["", f"On {name} no claim is judged by {ONE_SEED}; its figures are below."]
            continue
        lines += ["", f"On {name} ({told}):", ""]
        lines += [
            f"- {claim.words}: **{judgement.verdict}**. {judgement.found}."
            for claim, judgement in zip(CLAIMS, judgements, strict=True)
            if judgement
        ]
    return lines


def _experiment(rows: Sequence[Row], experiment: str, pictures: Mapping[str, str]) -> Iterator[str]:
    """Give an experiment's picture, table and differences, a part a study."""
    title, _ = _TITLES[experiment]
    for study in studies(rows):
        mine = study.rows
        yield from ["", f"### {title.split(':')[0]}, {study.name}", ""]
        picture = pictures.get(f"{experiment}-{study.slug}")
        if picture:
            yield from [f"![{title}, {study.name}]({picture})", ""]
        yield from [*TABLES[experiment](mine), "", _seeds(mine)]
        if differences(mine) and experiment not in VARIATIONS:
            yield from ["", "Paired differences:", "", *paired_differences(mine, experiment)]


def _seeds(rows: Sequence[Row]) -> str:
    """Say over how many pretraining seeds the means are, and of which models over others."""
    per_model = {model: pick(rows, model=model)[0]["seeds"] for model in models(scores(rows))}
    usual, _ = Counter(per_model.values()).most_common(1)[0]
    others = [
        f"of {model_name(model)} {seeds or 0}"
        for model, seeds in per_model.items()
        if seeds != usual
    ]
    return f"Pretraining seeds: {', '.join([str(usual or 0), *others])}."


def publish(results: Mapping[str, Any], folder: Path) -> Path:
    """Write a run's CSV, figures and page into its folder; return the page's path."""
    write_csv(results["rows"], folder / "results.csv")
    pictures = {path.stem: path.name for path in write_figures(results["rows"], folder)}
    path = folder / "reproduction.md"
    path.write_text(page([results], pictures), encoding="utf-8")
    return path


def main(folder: Path, output: Path) -> None:
    """Write the page of all results in `folder` or below.

    Raises `InputError` if there are none.
    """
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
