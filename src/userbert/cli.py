"""The command line: one verb a stage. It reads arguments, calls the stage, and says what came out.

Exit codes: 0 done, 1 our fault, 2 the user's input (one message that says what to change).
"""

import os
import sys
import traceback
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from userbert.errors import InputError, LabelError, UserBertError

if TYPE_CHECKING:
    from userbert.data.pairs import Pairs
    from userbert.data.store import PreparedData
    from userbert.tasks.labels import Labels

app = typer.Typer(
    help="Vectors of who users are, learned from logs of what they do.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="markdown",
)
label_app = typer.Typer(
    help="Write leakage-safe labels: what is known only at or after each cut-off.",
    no_args_is_help=True,
)
app.add_typer(label_app, name="label")

_say = Console(stderr=True, highlight=False, soft_wrap=True).print
_show = Console(highlight=False, soft_wrap=True).print

Data = Annotated[Path, typer.Argument(metavar="DATA", help="A folder of prepared data.")]
Model = Annotated[Path, typer.Argument(metavar="MODEL", help="A pretrained model.")]
Output = Annotated[Path, typer.Option("-o", "--output", help="Where to write; must not exist yet.")]
Cutoffs = Annotated[
    list[str] | None,
    typer.Option(
        "--cutoff",
        metavar="T",
        help="Events before this instant are visible: 2017-09-01 or 2017-09-01T04:00, in the "
        "schema's timezone. May be given several times. Default: just after the last event.",
    ),
]
At = Annotated[
    Path | None,
    typer.Option(
        "--at", metavar="FILE", help="Users and their own cut-offs: columns user_id and cutoff."
    ),
]
LabelFile = Annotated[Path, typer.Option("-o", "--output", help="Labels to write, a Parquet file.")]


class OnInvalid(StrEnum):
    """What `prepare` does with rows that cannot be used."""

    FAIL = "fail"
    QUARANTINE = "quarantine"


class VectorsAs(StrEnum):
    """The form of vectors in a file."""

    LIST = "list"
    COLUMNS = "columns"


class Precision(StrEnum):
    """What the encoder computes in."""

    FLOAT32 = "float32"
    BF16 = "bf16"


def _open(data: Path) -> "PreparedData":
    from userbert.data.store import PreparedData

    return PreparedData.open(data)


def _pairs(data: "PreparedData", cutoffs: list[str] | None, at: Path | None) -> "Pairs":
    """The (user, cut-off) pairs that `--cutoff` or `--at` ask for."""
    from userbert.data.pairs import pairs_at, read_pairs

    if at is not None:
        if cutoffs:
            raise InputError("--at names each user's cut-off; leave --cutoff out.")
        return read_pairs(at, data)
    instants = [data.schema.instant(cutoff) for cutoff in cutoffs or []]
    return pairs_at(data, instants or [data.default_cutoff])


@app.command()
def init(
    events: Annotated[list[Path], typer.Argument(metavar="EVENTS...", help="Event logs.")],
    profiles: Annotated[
        Path | None, typer.Option(metavar="FILE", help="One row a user: what is known of them.")
    ] = None,
    output: Output = Path("schema.yaml"),
) -> None:
    """Propose a schema for event logs, with the reason of each choice as a comment.

    Example: `userbert init events.parquet --profiles profiles.parquet`
    """
    from userbert.folders import publishing_file
    from userbert.schema import Schema
    from userbert.schema.inference import propose_schema

    text = propose_schema(events, profiles, output.parent)
    Schema.parse(text)
    with publishing_file(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    _show(f"{output} is written. Look it through, then: userbert prepare {output} -o data")


@app.command()
def prepare(
    schema: Annotated[Path, typer.Argument(metavar="SCHEMA", help="What the logs mean.")],
    output: Output,
    memory: Annotated[str, typer.Option(metavar="SIZE", help="Memory to keep to.")] = "2GiB",
    on_invalid: Annotated[
        OnInvalid,
        typer.Option(help="Stop at a row that cannot be used, or set such rows aside."),
    ] = OnInvalid.FAIL,
    vocabulary: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL|DATA0", help="Use the ids of a model, or of other prepared data."
        ),
    ] = None,
) -> None:
    """Turn raw logs into prepared data.

    Example: `userbert prepare schema.yaml -o data`
    """
    from userbert.data.prepare import prepare as prepare_data
    from userbert.data.vocabulary import Vocabularies
    from userbert.folders import read_json
    from userbert.schema import Schema

    data = prepare_data(
        Schema.load(schema),
        output,
        memory=_bytes(memory),
        on_invalid=on_invalid.value,
        vocabularies=None if vocabulary is None else Vocabularies.load(vocabulary),
    )
    summary = read_json(output / "summary.json")
    for warning in summary["warnings"]:
        _say(f"[yellow]warning:[/] {warning}")
    for name in data.schema.segments:
        _show(f"{name}: {summary['actions'][name]:,} actions in {summary['words'][name]:,} words")
    read = sum(account["read"] for account in summary["rows"].values())
    left_out = sum(
        account["outside_segments"] + account["quarantined"] for account in summary["rows"].values()
    )
    _show(f"{output}: {len(data):,} users from {read:,} rows; {left_out:,} rows are in no segment")
    if (output / "rejected.parquet").exists():
        _say(f"[yellow]warning:[/] {output / 'rejected.parquet'} holds the rows set aside, and why")


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="Prepared data, a model, labels or embeddings.")],
    user: Annotated[str | None, typer.Option(metavar="ID", help="Show one user's words.")] = None,
    cutoff: Annotated[str | None, typer.Option(metavar="T", help="Before this instant.")] = None,
) -> None:
    """Show what is inside a folder or file that userbert wrote.

    Example: `userbert inspect data --user 17`
    """
    from userbert.serving.inspection import inspect as describe

    _show(describe(path, user, cutoff))


@label_app.command("next")
def label_next(
    data: Data,
    output: LabelFile,
    attribute: Annotated[str, typer.Option(metavar="A", help="Whose values are predicted.")],
    horizon: Annotated[
        str | None, typer.Option(metavar="D", help="How long to wait for the next word: 30d.")
    ] = None,
    cutoff: Cutoffs = None,
    at: At = None,
) -> None:
    """Which values of an attribute does a user's next word hold?

    Example: `userbert label next data --attribute category --cutoff 2017-09-01 -o next.parquet`
    """
    from userbert.tasks import labels

    opened = _open(data)
    pairs = _pairs(opened, cutoff, at)
    _save(labels.label_next(opened, attribute, pairs, horizon=horizon), output)


@label_app.command("return")
def label_return(
    data: Data,
    output: LabelFile,
    horizon: Annotated[str, typer.Option(metavar="D", help="How long after the cut-off: 28d.")],
    cutoff: Cutoffs = None,
    at: At = None,
) -> None:
    """Does a user act again within a horizon?

    Example: `userbert label return data --horizon 28d --cutoff 2017-09-01 -o return.parquet`
    """
    from userbert.tasks import labels

    opened = _open(data)
    _save(labels.label_return(opened, _pairs(opened, cutoff, at), horizon), output)


@label_app.command("attribute")
def label_attribute(
    data: Data,
    output: LabelFile,
    field: Annotated[str, typer.Option(metavar="F", help="The profile field.")],
    positive: Annotated[list[str], typer.Option(metavar="V", help="A value that counts as yes.")],
    hide: Annotated[
        list[str] | None,
        typer.Option(metavar="F", help="Another field that gives the answer away."),
    ] = None,
    cutoff: Cutoffs = None,
    at: At = None,
) -> None:
    """Has a profile field one of some values?

    Example: `userbert label attribute data --field kids --positive 1 --positive 2 -o kids.parquet`
    """
    from userbert.tasks import labels

    opened = _open(data)
    pairs = _pairs(opened, cutoff, at)
    _save(labels.label_attribute(opened, pairs, field, positive, hide or []), output)


@label_app.command("response")
def label_response(
    data: Data,
    output: LabelFile,
    users: Annotated[Path, typer.Option(metavar="FILE", help="Who responded: column user_id.")],
    among: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Who was asked. Default: all users.")
    ] = None,
    negatives: Annotated[
        int | None, typer.Option(metavar="N", help="Draw so many others a responder.", min=1)
    ] = None,
    cutoff: Cutoffs = None,
    at: At = None,
) -> None:
    """Is a user one of those who responded after the cut-off?

    Example: `userbert label response data --users redeemed.csv --cutoff 2017-09-01 -o r.parquet`
    """
    from userbert.tasks import labels

    opened = _open(data)
    made = labels.label_response(
        opened,
        _pairs(opened, cutoff, at),
        _user_ids(users),
        among=None if among is None else _user_ids(among),
        negatives=negatives,
    )
    _save(made, output)


@app.command()
def pretrain(
    data: Data,
    output: Output,
    preset: Annotated[str, typer.Option(help="`paper`: the paper's settings, exactly.")] = "paper",
    steps: Annotated[
        int | None, typer.Option(min=1, help="Batches to learn from. Default: the preset's.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    before: Annotated[
        str | None,
        typer.Option(
            metavar="T",
            help="Learn from events before this instant alone. Default: the schema's fit_before.",
        ),
    ] = None,
    at: At = None,
    hide: Annotated[
        list[str] | None,
        typer.Option(metavar="F", help="A profile field that the model must not see."),
    ] = None,
    from_model: Annotated[
        Path | None, typer.Option("--from", metavar="MODEL", help="Go on from this model.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the preset."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run.")
    ] = False,
) -> None:
    """Pretrain a user encoder on behavior alone.

    Example: `userbert pretrain data -o model --before 2017-09-01 --steps 3000`
    """
    _needs_torch()
    from userbert.data.pairs import read_table
    from userbert.model.userbert import UserBert
    from userbert.training.pretrain import configure
    from userbert.training.pretrain import pretrain as pretrain_model

    overrides = [*(settings or []), *([] if steps is None else [f"steps={steps}"])]
    model = pretrain_model(
        _open(data),
        output,
        preset=preset,
        config=configure(preset, overrides),
        seed=seed,
        before=before,
        at=None if at is None else read_table(at),
        hide=hide or (),
        from_model=None if from_model is None else UserBert.from_pretrained(from_model),
        resume=resume,
    )
    record = model.record
    _show(
        f"{output}: {record['users']:,} user sequences in {record['seconds']:.0f} s "
        f"({record['users_per_s']:,.0f} a second), loss {record['loss']:.3f}"
    )


@app.command()
def embed(
    model: Model,
    data: Data,
    output: Output,
    cutoff: Cutoffs = None,
    at: At = None,
    vectors_as: Annotated[
        VectorsAs, typer.Option("--format", help="One list a user, or columns e0, e1 ….")
    ] = VectorsAs.LIST,
    precision: Annotated[Precision, typer.Option(help="Of the encoder.")] = Precision.FLOAT32,
) -> None:
    """Write a vector of every user.

    Example: `userbert embed model data --cutoff 2017-09-01 -o embeddings.parquet`
    """
    _needs_torch()
    from userbert.model.userbert import UserBert
    from userbert.serving.embed import write_embeddings

    opened = _open(data)
    pairs = _pairs(opened, cutoff, at)
    write_embeddings(
        UserBert.from_pretrained(model),
        opened,
        pairs,
        output,
        vectors_as=vectors_as.value,
        precision=precision.value,
    )
    _show(f"{output}: {len(pairs):,} vectors")


@app.command()
def finetune(
    model: Model,
    data: Data,
    labels: Annotated[Path, typer.Option(metavar="FILE", help="What is to be predicted.")],
    output: Output,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Start from new weights, to compare.")
    ] = False,
    epochs: Annotated[int, typer.Option(min=1, help="At most; the best is kept.")] = 10,
    batch_size: Annotated[int, typer.Option(min=1, help="Users in a batch.")] = 128,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Fine-tune a pretrained model to a task, end to end.

    Example: `userbert finetune model data --labels return.parquet -o task`
    """
    _needs_torch()
    from userbert.model.userbert import UserBert
    from userbert.tasks.finetune import FinetuneConfig
    from userbert.tasks.finetune import finetune as finetune_model
    from userbert.tasks.labels import Labels

    _refuse_existing(output)
    opened = _open(data)
    task = finetune_model(
        UserBert.from_pretrained(model),
        opened,
        Labels.load(labels, opened),
        config=FinetuneConfig(epochs=epochs, batch_size=batch_size, seed=seed),
        from_scratch=from_scratch,
    )
    task.save(output)
    record = task.record
    measure = {"binary": "ROC-AUC", "regression": "minus squared error"}.get(task.kind, "mAP@10")
    _show(
        f"{output}: {record['labels']:,} labels, best after {record['best_epoch']} epochs: "
        f"{measure} {record['quality']:.3f} on {record['validation_labels']:,} users set apart"
    )


@app.command()
def predict(
    task: Annotated[Path, typer.Argument(metavar="TASK", help="A task that was fine-tuned.")],
    data: Data,
    output: Output,
    cutoff: Cutoffs = None,
    at: At = None,
) -> None:
    """Score users by a task model.

    Example: `userbert predict task data --cutoff 2017-09-01 -o scores.parquet`
    """
    _needs_torch()
    from userbert.folders import publishing_file
    from userbert.tasks.task_model import TaskModel

    opened = _open(data)
    scores = TaskModel.load(task).predict_pairs(opened, _pairs(opened, cutoff, at))
    with publishing_file(output) as temporary:
        scores.write_parquet(temporary)
    _show(f"{output}: {len(scores):,} users")


@app.command()
def evaluate(
    model: Model,
    data: Data,
    labels: Annotated[
        list[Path], typer.Option(metavar="FILE", help="A task; may be given several times.")
    ],
    output: Output,
    also: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="MODEL", help="The same pretraining with another seed; two make three."
        ),
    ] = None,
) -> None:
    """Say honestly what the vectors add to the features one has already.

    Example: `userbert evaluate model data --labels return.parquet -o verdict`
    """
    _needs_torch()
    from userbert.folders import publishing_folder, write_summary
    from userbert.model.userbert import UserBert
    from userbert.serving.inspection import verdict
    from userbert.tasks.evaluate import draw
    from userbert.tasks.evaluate import evaluate as compare
    from userbert.tasks.labels import Labels
    from userbert.tasks.report import Background, read_metrics, write_report

    _refuse_existing(output)
    opened = _open(data)
    folders = [model, *(also or [])]
    models = [UserBert.from_pretrained(folder) for folder in folders]
    tasks = [Labels.load(path, opened) for path in labels]
    report = compare(models, opened, tasks, command=_command())
    with publishing_folder(output) as temporary:
        report.save(temporary / "report.json")
        metrics = [read_metrics(folder) for folder in folders]
        cutoff = int(max(task.cutoffs.max() for task in tasks))
        background = Background(metrics=metrics)
        drawn = [draw(task) for task in tasks]
        write_report(temporary, report, opened, models, drawn, cutoff, background)
        write_summary(temporary, "evaluation")
    for warning in report.warnings:
        _say(f"[yellow]warning:[/] {warning}")
    _show(verdict(report.rows))
    _show(f"{output / 'report.html'} has the whole report")


@app.command()
def demo(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="A folder; an unfinished demo goes on in it.")
    ] = Path("demo"),
) -> None:
    """Run the main job on real data: Complete Journey, raw logs to a report.

    Example: `userbert demo -o demo`
    """
    _needs_torch()
    from userbert.experiments.demo import run_demo

    _show(f"{run_demo(output, _command())} is the report: open it in a browser")


def _command() -> list[str]:
    """The command as it was typed, without where the program lies."""
    return ["userbert", *sys.argv[1:]]


def _refuse_existing(output: Path) -> None:
    """Say so before an hour's work, not after it."""
    if output.exists():
        raise InputError(f"{output} exists already. Choose another -o, or remove it first.")


def _needs_torch() -> None:
    """Say what to install where the base install ends."""
    from importlib.util import find_spec

    if find_spec("torch") is None:
        raise InputError("this needs torch. Install it with: pip install 'userbert[train]'")


def _user_ids(path: Path) -> list[str]:
    from userbert.data.pairs import read_table

    frame = read_table(path)
    if "user_id" not in frame.columns:
        raise LabelError(
            f"{path}: expected a column user_id, found {', '.join(frame.columns)}. "
            "Rename the column that holds the user."
        )
    return [str(user) for user in frame["user_id"].drop_nulls()]


def _save(labels: "Labels", output: Path) -> None:
    labels.save(output)
    positives = f", {labels.targets.mean():.1%} positive" if labels.kind == "binary" else ""
    _show(f"{output}: {len(labels):,} labels{positives}")


def _bytes(size: str) -> int:
    """Read 2GiB, 512MiB or a number of bytes."""
    units = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
    number, factor = (size[:-3], units[size[-3:]]) if size[-3:] in units else (size, 1)
    try:
        found = int(float(number) * factor)
    except ValueError:
        found = 0
    if found < 64 << 20:
        raise InputError(f"--memory: expected at least 64MiB, such as 2GiB, found {size!r}.")
    return found


def main() -> None:
    """Run the command line."""
    # torch's threads wait for work by spinning; on a busy machine that makes a small step ten
    # times slower (docs/decisions/0003). Read when torch is loaded, so it is set before.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except InputError as error:
        _say(f"[bold red]error:[/] {error}", markup=True)
        sys.exit(2)
    except KeyboardInterrupt:
        _say("interrupted; nothing half-written was left")
        sys.exit(130)
    except UserBertError as error:
        _say(f"error: {error}", markup=False)
        sys.exit(1)
    except Exception:
        # The last stop: whatever it is, it is our fault.
        traceback.print_exc()
        _say("this is a fault of userbert; please report it with the lines above")
        sys.exit(1)
