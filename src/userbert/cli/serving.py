"""Verbs of use: vectors of all users, look-alikes, a network for other runtimes, the service."""

from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from userbert.cli.options import (
    At,
    BackendName,
    Cutoffs,
    Data,
    Engine,
    EngineOption,
    Master,
    Model,
    Output,
    needs,
    needs_torch,
    open_data,
    session_of,
    show,
)
from userbert.errors import InputError
from userbert.folders import found_at, refuse_existing, require_ending

if TYPE_CHECKING:
    from userbert.embedding.parts import Asked


class VectorsAs(StrEnum):
    """The form of vectors in a file."""

    LIST = "list"
    COLUMNS = "columns"


class LikeBy(StrEnum):
    """How seeds count together."""

    LINEAR = "linear"
    CENTROID = "centroid"
    NEAREST = "nearest"


class Precision(StrEnum):
    """What the encoder computes in."""

    FLOAT32 = "float32"
    BF16 = "bf16"


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
    engine: EngineOption = Engine.LOCAL,
    master: Master = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run that writes a folder.")
    ] = False,
) -> None:
    """Write a vector of every user: one file, or a folder of parts.

    Example: `userbert embed model data --cutoff 2017-09-01 -o embeddings.parquet`

    For many users, and to go on after an interruption: `userbert embed model data -o embeddings
    --resume`
    """
    needs_torch()
    from userbert.data.use.pairs import instant_of, read_pairs
    from userbert.embedding.embed import is_file, write_embeddings
    from userbert.embedding.parts import users_before
    from userbert.model.userbert import UserBert

    if not resume:
        refuse_existing(output)
    if engine is Engine.LOCAL:
        is_file(output)
    opened = open_data(data)
    if at is None:
        instants = [instant_of(moment, opened, "--cutoff") for moment in cutoff or []]
        asked: Asked = users_before(opened, instants or [opened.default_cutoff], "--cutoff")
    elif cutoff:
        raise InputError("--at names each user's cut-off; leave --cutoff out.")
    else:
        asked = read_pairs(at, opened)
    trained = UserBert.from_pretrained(model)
    with session_of(engine, master) as spark:
        vectors = write_embeddings(
            trained,
            opened,
            asked,
            output,
            vectors_as=vectors_as.value,
            precision=precision.value,
            spark=spark,
            resume=resume,
        )
    show(f"{output}: {vectors:,} vectors")


def serve(
    models: Annotated[
        list[Path],
        typer.Argument(metavar="MODEL|TASK…", help="Models and tasks, or files of exported ones."),
    ],
    host: Annotated[
        str, typer.Option(help="The address; others than this machine's need tokens.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    tokens: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Who may call: a token a line, sent as Bearer."),
    ] = None,
    backend: Annotated[
        BackendName, typer.Option(help="What computes: PyTorch, or ONNX Runtime without it.")
    ] = BackendName.TORCH,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DATA", help="Prepared data, whose users can be looked at, too."),
    ] = None,
    runs: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Where models and evaluations lie that are shown, too."
        ),
    ] = None,
    queue: Annotated[
        int, typer.Option(min=1, help="Users who may wait; beyond them calls get 429.")
    ] = 128,
) -> None:
    """Serve vectors and scores of raw events over HTTP.

    Example: `userbert serve task --port 8000`
    """
    needs("fastapi", "serve")
    from userbert.service.app import Settings, check_address, create_app, run
    from userbert.service.loaded_models import load_all
    from userbert.service.middleware import LOOPBACK, read_tokens

    known = () if tokens is None else read_tokens(tokens)
    check_address(host, known)
    if backend is BackendName.TORCH:
        needs_torch()
    if runs is not None and not runs.is_dir():
        raise InputError(f"--runs {runs}: expected a folder; {found_at(runs)}. Name another.")
    served = load_all(models, backend.value)
    settings = Settings(tokens=known, hosts=LOOPBACK if host in LOOPBACK else (), queue=queue)
    app = create_app(served, settings, None if data is None else open_data(data), runs)
    told = f"serves {', '.join(served)}"
    run(app, host, port, lambda at: show(f"{at} {told}; what it takes: {at}/openapi.json"))


def lookalike(
    embeddings: Annotated[
        Path, typer.Argument(metavar="EMBEDDINGS", help="A file or folder that embed wrote.")
    ],
    seeds: Annotated[
        Path, typer.Option(metavar="FILE", help="Users of the kind sought: a column user_id.")
    ],
    k: Annotated[int, typer.Option("-k", min=1, help="Users in the list.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="A .csv or .parquet; must not exist yet.")
    ],
    by: Annotated[
        LikeBy,
        typer.Option(
            help="linear: by a regression of seeds against others; centroid: near the seeds' mean; "
            "nearest: near any seed."
        ),
    ] = LikeBy.LINEAR,
    exclude: Annotated[
        Path | None, typer.Option(metavar="FILE", help="More users to leave out: a column user_id.")
    ] = None,
) -> None:
    """List the users who are most like some others.

    Example: `userbert lookalike embeddings.parquet --seeds buyers.csv -k 500 -o list.csv`
    """
    from userbert.embedding.embeddings import Embeddings
    from userbert.search.lookalike import find_lookalikes, require_list_ending, write_list

    refuse_existing(output)
    require_list_ending(output)
    opened = Embeddings.open(embeddings)
    found = find_lookalikes(opened, seeds, k, by=by.value, exclude=exclude or ())
    write_list(found.users, output)
    for line in found.told(output):
        show(line)


def export(
    network: Annotated[
        Path, typer.Argument(metavar="MODEL|TASK", help="A pretrained model, or a task model.")
    ],
    output: Output,
) -> None:
    """Write a model or a task as one ONNX file, which is run without torch.

    Example: `userbert export task -o task.onnx`
    """
    needs_torch()
    if missing := [name for name in ("onnx", "onnxscript", "onnxruntime") if not find_spec(name)]:
        raise InputError(
            f"this needs {' and '.join(missing)}. Install it with: pip install 'userbert[export]'"
        )
    from userbert.export.export import write_onnx
    from userbert.export.torch_backend import load_network

    refuse_existing(output)
    require_ending(output, ".onnx")
    written = write_onnx(load_network(network), output)
    show(
        f"{output}: {written.size / 1e6:,.1f} MB; vectors differ from torch's by at most "
        f"{written.difference:.1e}"
    )
