"""Verbs of learning: pretrain, fine-tune, predict, evaluate, and all of it in the demo."""

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
    needs,
    needs_torch,
    open_data,
    pairs_given,
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

Task = Annotated[Path, typer.Argument(metavar="TASK", help="A task that was fine-tuned.")]

Track = Annotated[
    list[TrackerName] | None,
    typer.Option(
        "--track",
        help="Also tell this tracker of the run, while it goes on. May be given several times.",
    ),
]


def pretrain(
    data: Data,
    output: Output,
    preset: Annotated[
        str,
        typer.Option(
            help="`default`: what did best so far; `paper`: the paper's settings, exactly."
        ),
    ] = "default",
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
    track: Track = None,
) -> None:
    """Pretrain a user encoder on behavior alone.

    Example: `userbert pretrain data -o model --before 2017-09-01 --steps 3000`

    With two processes: `torchrun --nproc-per-node=2 -m userbert pretrain data -o model`
    """
    needs_torch()
    from userbert.data.use.pairs import read_table
    from userbert.model.userbert import UserBert
    from userbert.training.distributed import joined
    from userbert.training.pretrain import pretrain as pretrain_model
    from userbert.training.settings import configure

    sizes = [one for one in settings or [] if one.strip().startswith("model.")]
    if from_model is not None and sizes:
        raise InputError(f"--set {sizes[0]}: the network is that of --from; leave it out.")
    with joined(os.environ) as processes:
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
        f"({record['users_per_s']:,.0f} a second), loss {record['loss']:.3f}"
    )
    show(f"next: userbert embed {output} {data} -o embeddings.parquet")
    show(f"or, with labels: userbert evaluate {output} {data} --labels FILE -o verdict")


def extend(model: Model, data: Data, output: Output) -> None:
    """Give a model rows for values that are new in grown data; what it learned stays.

    Example: `userbert extend model data1 -o model1`
    """
    needs_torch()
    refuse_existing(output)
    from userbert.model.extend import extend as extend_model
    from userbert.model.userbert import UserBert

    extended = extend_model(UserBert.from_pretrained(model), open_data(data))
    extended.save_pretrained(output)
    count = extended.record["extended_by"]
    show(f"{output}: {count:,} new values" + (", which begin as unknown" if count else ""))
    if count:
        show(f"next: userbert pretrain {data} -o MODEL --from {output}, to learn what they are")


def finetune(
    model: Model,
    data: Data,
    labels: Annotated[Path, typer.Option(metavar="FILE", help="What is to be predicted.")],
    output: Output,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Start from new weights, to compare.")
    ] = False,
    with_aggregates: Annotated[
        bool,
        typer.Option(
            "--with-aggregates",
            help="Of a yes-or-no task: the mean of the network, of a regression on vectors and "
            "counts, and of trees on counts, with and without times; what a report calls `fused`.",
        ),
    ] = False,
    epochs: Annotated[
        int, typer.Option(min=1, help="Passes over the labels; the best is kept.")
    ] = 3,
    batch_size: Annotated[int, typer.Option(min=1, help="Users in a batch.")] = 32,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    track: Track = None,
) -> None:
    """Fine-tune a pretrained model to a task, end to end.

    Example: `userbert finetune model data --labels return.parquet -o task`
    """
    needs_torch()
    from userbert.model.userbert import UserBert
    from userbert.tasks.finetune import FinetuneConfig
    from userbert.tasks.finetune import finetune as finetune_model
    from userbert.tasks.fused import finetune_with_aggregates
    from userbert.tasks.labels import Labels

    if with_aggregates and from_scratch:
        raise InputError(
            "--from-scratch learns a network alone, to compare. Leave out --with-aggregates."
        )
    refuse_existing(output)
    trackers = trackers_of(track or [], output)
    opened = open_data(data)
    trained, asked = UserBert.from_pretrained(model), Labels.load(labels, opened)
    config = FinetuneConfig(epochs=epochs, batch_size=batch_size, seed=seed)
    task: TaskModel | FusedModel
    if with_aggregates:
        task = finetune_with_aggregates(trained, opened, asked, config=config, trackers=trackers)
    else:
        task = finetune_model(
            trained, opened, asked, config=config, from_scratch=from_scratch, trackers=trackers
        )
    task.save(output)
    record = task.record
    measure = {"binary": "ROC-AUC", "regression": "minus squared error"}.get(task.kind, "mAP@10")
    if "qualities" in record:
        how = ", ".join(f"{name} {value:.3f}" for name, value in record["qualities"].items())
    elif record["best_epoch"]:
        how = f"best after {record['best_epoch']} epochs"
    else:
        how = "best with the vectors as they were"
    show(
        f"{output}: {record['labels']:,} labels; {measure} {record['quality']:.3f} on "
        f"{record['validation_labels']:,} users set apart ({how})"
    )
    show(f"next: userbert predict {output} {data} -o scores.parquet")


def predict(
    task: Task,
    data: Data,
    output: Output,
    cutoff: Cutoffs = None,
    at: At = None,
) -> None:
    """Score users by a task model.

    Example: `userbert predict task data --cutoff 2017-09-01 -o scores.parquet`
    """
    needs_torch()
    from userbert.folders import publishing_file
    from userbert.tasks.fused import load_task

    refuse_existing(output)
    require_ending(output, ".parquet")
    opened = open_data(data)
    scores = load_task(task).predict_pairs(opened, pairs_given(opened, cutoff, at))
    with publishing_file(output) as temporary:
        scores.write_parquet(temporary)
    show(f"{output}: {len(scores):,} users")


def explain(
    task: Task,
    data: Data,
    user: Annotated[str, typer.Option(metavar="ID", help="Whose score.")],
    cutoff: Annotated[
        str | None,
        typer.Option(metavar="T", help="As of this instant. Default: just after the last event."),
    ] = None,
    value: Annotated[
        str | None, typer.Option(metavar="CLASS", help="Default: the likeliest of the classes.")
    ] = None,
    most: Annotated[int, typer.Option("-n", min=1, help="Words to show.")] = 10,
) -> None:
    """Say which words, and what in them, moved a user's score.

    Example: `userbert explain task data --user 1042 --cutoff 2017-09-01`
    """
    needs_torch()
    from userbert.inspection import moved
    from userbert.tasks.explain import explain as explain_score
    from userbert.tasks.fused import FUSED
    from userbert.tasks.task_model import TaskModel

    if (task / FUSED).is_file():
        raise InputError(
            f"{task} is the mean of a network, a regression and trees; explain tells of "
            f"networks. Ask its network: userbert explain {task / 'network'} {data} --user {user}"
        )
    opened = open_data(data)
    found = explain_score(TaskModel.load(task), opened, user, cutoff, value=value, most=most)
    show(moved(found, opened, most))


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
    needs_torch()
    from userbert.evaluation.evaluate import draw
    from userbert.evaluation.evaluate import evaluate as compare
    from userbert.evaluation.findings import Score, find
    from userbert.folders import publishing_folder, write_summary
    from userbert.inspection import verdict
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
        drawn = [draw(task) for task in tasks]
        write_report(temporary, report, opened, models, drawn, cutoff, background)
        write_summary(temporary, "evaluation")
    for warning in (*report.warnings, *report.giveaways):
        warn(warning)
    show(verdict(report.rows))
    for path, task in zip(labels, tasks, strict=True):
        scores = [Score.from_row(row) for row in report.rows if row["task"] == task.name]
        show(f"{task.name}: {find(scores).text}")
        if task.kind == "binary":
            made = f"userbert finetune {model} {data} --labels {path} --with-aggregates -o TASK"
            show(f"next, to score users by the model called fused: {made}")
    show(f"{output / 'report.html'} has the whole report")


def demo(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="A folder; an unfinished demo goes on in it.")
    ] = Path("demo"),
    serve: Annotated[
        bool,
        typer.Option("--serve", help="Then serve its users, a model and a task, until Ctrl-C."),
    ] = False,
) -> None:
    """Run the main job on real data: Complete Journey, raw logs to a report.

    Example: `userbert demo -o demo`
    """
    needs_torch()
    if serve:
        needs("fastapi", "serve")
    from userbert.experiments.demo import run_demo, served_of

    show(f"{run_demo(output, typed_command())} is the report: open it in a browser")
    if serve:
        serve_models([*served_of(output)], data=output / "data", runs=output, port=0)
