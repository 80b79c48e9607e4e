"""Verbs of learning and evaluation, from `pretrain` to `evaluate`, and `demo`, a whole run."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from userbert.cli.options import (
    At,
    Cutoffs,
    Data,
    Model,
    Output,
    open_data,
    pairs_from_options,
    require_package,
    require_torch,
    show,
    typed_command,
)
from userbert.cli.serving import serve as serve_models
from userbert.errors import InputError
from userbert.folders import refuse_existing, require_ending
from userbert.progress import warn
from userbert.training.tracking import TrackerName, trackers_of

if TYPE_CHECKING:
    from userbert.tasks.fused import FusedModel
    from userbert.tasks.task_model import TaskModel

Task = Annotated[Path, typer.Argument(metavar="TASK", help="Folder of a fine-tuned task.")]

Track = Annotated[
    list[TrackerName] | None,
    typer.Option(
        "--track",
        help="Also log the run to this tracker. May be repeated.",
    ),
]


def pretrain(
    data: Data,
    output: Output,
    preset: Annotated[
        str,
        typer.Option(help="Settings: `default`, the best so far, or `paper`, exactly the paper's."),
    ] = "default",
    steps: Annotated[
        int | None, typer.Option(min=1, help="Number of batches. Default: the preset's.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
    before: Annotated[
        str | None,
        typer.Option(
            metavar="T",
            help="Learn only from events before this instant. Default: the schema's fit_before.",
        ),
    ] = None,
    at: At = None,
    hide: Annotated[
        list[str] | None,
        typer.Option(metavar="F", help="Profile field to hide from the model. May be repeated."),
    ] = None,
    from_model: Annotated[
        Path | None,
        typer.Option("--from", metavar="MODEL", help="Pretrained model to start from."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting. May be repeated."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    track: Track = None,
) -> None:
    """Pretrain a user encoder on behavior alone.

    Example: `userbert pretrain data -o model --before 2017-09-01 --steps 3000`

    With two processes: `torchrun --nproc-per-node=2 -m userbert pretrain data -o model`
    """
    require_torch()
    from userbert.data.use.pairs import read_table
    from userbert.model.userbert import UserBert
    from userbert.training.distributed import join_processes
    from userbert.training.pretrain import pretrain as pretrain_model
    from userbert.training.settings import configure

    sizes = [setting for setting in settings or [] if setting.strip().startswith("model.")]
    if from_model is not None and sizes:
        raise InputError(f"--set {sizes[0]}: --from sets the network; leave this setting out.")
    with join_processes(os.environ) as processes:
        model = pretrain_model(
            open_data(data),
            output,
            preset=preset,
            config=configure(preset, settings or []),
            steps=steps,
            seed=seed,
            before=before,
            at=None if at is None else read_table(at),
            hide=hide or (),
            from_model=None if from_model is None else UserBert.from_pretrained(from_model),
            resume=resume,
            processes=processes,
            trackers=trackers_of(track or [], output, is_resumed=resume),
        )
    if not processes.is_first:
        return
    record = model.record
    show(
        f"{output}: {record['users']:,} user sequences in {record['seconds']:.0f} s "
        f"({record['users_per_s']:,.0f} per second), loss {record['loss']:.3f}"
    )
    show(f"next: userbert embed {output} {data} -o embeddings.parquet")
    show(f"or, with labels: userbert evaluate {output} {data} --labels FILE -o verdict")


def extend(model: Model, data: Data, output: Output) -> None:
    """Add the new values of grown data to a model; learned weights stay.

    Example: `userbert extend model data1 -o model1`
    """
    require_torch()
    refuse_existing(output)
    from userbert.model.extend import extend as extend_model
    from userbert.model.userbert import UserBert

    extended = extend_model(UserBert.from_pretrained(model), open_data(data))
    extended.save_pretrained(output)
    count = extended.record["extended_by"]
    show(f"{output}: {count:,} new values" + (", which start as unknown" if count else ""))
    if count:
        show(f"next: userbert pretrain {data} -o MODEL --from {output}, to learn the new values")


def finetune(
    model: Model,
    data: Data,
    labels: Annotated[Path, typer.Option(metavar="FILE", help="File of labels to learn from.")],
    output: Output,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Start from random weights, for comparison.")
    ] = False,
    with_aggregates: Annotated[
        bool,
        typer.Option(
            "--with-aggregates",
            help="For binary labels: average the network, a regression on vectors and counts, "
            "trees on counts, and trees on counts and timing. Reports call this model `fused`.",
        ),
    ] = False,
    epochs: Annotated[
        int,
        typer.Option(min=1, help="Passes over the labels; the best weights are kept."),
    ] = 3,
    batch_size: Annotated[int, typer.Option(min=1, help="Number of labels per batch.")] = 32,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
    track: Track = None,
) -> None:
    """Fine-tune a pretrained model on labels, end to end.

    Example: `userbert finetune model data --labels return.parquet -o task`
    """
    require_torch()
    from userbert.model.userbert import UserBert
    from userbert.tasks.finetune import FinetuneConfig
    from userbert.tasks.finetune import finetune as finetune_model
    from userbert.tasks.fused import finetune_with_aggregates
    from userbert.tasks.labels import Labels

    if with_aggregates and from_scratch:
        raise InputError(
            "--from-scratch trains a network only, for comparison: leave --with-aggregates out."
        )
    refuse_existing(output)
    trackers = trackers_of(track or [], output)
    opened = open_data(data)
    pretrained, task_labels = UserBert.from_pretrained(model), Labels.load(labels, opened)
    config = FinetuneConfig(epochs=epochs, batch_size=batch_size, seed=seed)
    task: TaskModel | FusedModel
    if with_aggregates:
        task = finetune_with_aggregates(
            pretrained, opened, task_labels, config=config, trackers=trackers
        )
    else:
        task = finetune_model(
            pretrained,
            opened,
            task_labels,
            config=config,
            from_scratch=from_scratch,
            trackers=trackers,
        )
    task.save(output)
    record = task.record
    measure = {"binary": "ROC-AUC", "regression": "minus mean squared error"}.get(
        task.kind, "mAP@10"
    )
    if "qualities" in record:
        details = ", ".join(f"{name} {value:.3f}" for name, value in record["qualities"].items())
    elif record["best_epoch"]:
        details = f"best after {record['best_epoch']} epochs"
    else:
        details = "best without changing the vectors"
    show(
        f"{output}: {record['labels']:,} labels; {measure} {record['quality']:.3f} on "
        f"{record['validation_labels']:,} held-out labels ({details})"
    )
    show(f"next: userbert predict {output} {data} -o scores.parquet")


def predict(
    task: Task,
    data: Data,
    output: Output,
    cutoff: Cutoffs = None,
    at: At = None,
) -> None:
    """Score users with a fine-tuned task.

    Example: `userbert predict task data --cutoff 2017-09-01 -o scores.parquet`
    """
    require_torch()
    from userbert.folders import publishing_file
    from userbert.tasks.fused import load_task

    refuse_existing(output)
    require_ending(output, ".parquet")
    opened = open_data(data)
    scores = load_task(task).predict_pairs(opened, pairs_from_options(opened, cutoff, at))
    with publishing_file(output) as temporary:
        scores.write_parquet(temporary)
    show(f"{output}: {len(scores):,} users")


def explain(
    task: Task,
    data: Data,
    user: Annotated[str, typer.Option(metavar="ID", help="User whose score to explain.")],
    cutoff: Annotated[
        str | None,
        typer.Option(
            metavar="T", help="Use events before this instant. Default: just after the last event."
        ),
    ] = None,
    value: Annotated[
        str | None,
        typer.Option(metavar="CLASS", help="Class to explain. Default: the most likely class."),
    ] = None,
    max_words: Annotated[
        int, typer.Option("-n", min=1, help="Maximum number of words to show.")
    ] = 10,
) -> None:
    """Show which words, and which of their values, changed a user's score.

    Example: `userbert explain task data --user 1042 --cutoff 2017-09-01`
    """
    require_torch()
    from userbert.inspection import explanation_table
    from userbert.tasks.explain import explain as explain_score
    from userbert.tasks.fused import FUSED
    from userbert.tasks.task_model import TaskModel

    if (task / FUSED).is_file():
        raise InputError(
            f"{task} averages a network, a regression and trees; only networks can be explained. "
            f"Explain its network: userbert explain {task / 'network'} {data} --user {user}"
        )
    opened = open_data(data)
    explanation = explain_score(
        TaskModel.load(task), opened, user, cutoff, value=value, most=max_words
    )
    show(explanation_table(explanation, opened, max_words))


def evaluate(
    model: Model,
    data: Data,
    labels: Annotated[
        list[Path], typer.Option(metavar="FILE", help="File of labels. May be repeated.")
    ],
    output: Output,
    also: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="MODEL",
            help="Another model, pretrained with the same settings and another seed. May be "
            "repeated; give at least two.",
        ),
    ] = None,
) -> None:
    """Measure how much vectors add to the features that you already have.

    Example: `userbert evaluate model data --labels return.parquet -o verdict`
    """
    require_torch()
    from userbert.evaluation.evaluate import evaluate as compare
    from userbert.evaluation.evaluate import sample_labels
    from userbert.evaluation.findings import Score, find
    from userbert.folders import publishing_folder, write_summary
    from userbert.inspection import evaluation_table
    from userbert.model.userbert import UserBert
    from userbert.report.report import Background, read_metrics, write_report
    from userbert.tasks.labels import Labels

    refuse_existing(output)
    opened = open_data(data)
    folders = [model, *(also or [])]
    models = [UserBert.from_pretrained(folder) for folder in folders]
    tasks = [Labels.load(path, opened) for path in labels]
    report = compare(models, opened, tasks, command=typed_command())
    with publishing_folder(output) as temporary:
        report.save(temporary / "report.json")
        metrics = [read_metrics(folder) for folder in folders]
        cutoff = int(max(task.cutoffs.max() for task in tasks))
        background = Background(metrics=metrics)
        draws = [sample_labels(task) for task in tasks]
        write_report(temporary, report, opened, models, draws, cutoff, background)
        write_summary(temporary, "evaluation")
    for warning in (*report.warnings, *report.giveaways):
        warn(warning)
    show(evaluation_table(report.rows))
    for path, task in zip(labels, tasks, strict=True):
        scores = [Score.from_row(row) for row in report.rows if row["task"] == task.name]
        show(f"{task.name}: {find(scores).text}")
        if task.kind == "binary":
            command = f"userbert finetune {model} {data} --labels {path} --with-aggregates -o TASK"
            show(f"next, to score users with the model called fused: {command}")
    show(f"{output / 'report.html'} is the full report")


def demo(
    output: Annotated[
        Path,
        typer.Option("-o", "--output", help="Folder to write, or of an interrupted demo."),
    ] = Path("demo"),
    serve: Annotated[
        bool,
        typer.Option(
            "--serve", help="Afterwards, serve the demo's model, task and users until Ctrl-C."
        ),
    ] = False,
) -> None:
    """Run every step on real data (Complete Journey), from raw logs to a report.

    Example: `userbert demo -o demo`
    """
    require_torch()
    if serve:
        require_package("fastapi", "serve")
    from userbert.experiments.demo import run_demo, served_of

    show(f"{run_demo(output, typed_command())} is the report: open it in a browser")
    if serve:
        serve_models([*served_of(output)], data=output / "data", runs=output, port=0)
