"""Verbs of use: `embed`, `serve`, `lookalike` and `export`."""

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
    engine_session,
    open_data,
    require_package,
    require_torch,
    show,
)
from userbert.errors import InputError
from userbert.folders import describe_path, refuse_existing, require_ending

if TYPE_CHECKING:
    from userbert.embedding.parts import Selection


class VectorLayout(StrEnum):
    """Layout of the vectors in a file: one list column, or one column per number."""

    LIST = "list"
    COLUMNS = "columns"


class ScoringMethod(StrEnum):
    """Method that scores users by their similarity to seeds."""

    LINEAR = "linear"
    CENTROID = "centroid"
    NEAREST = "nearest"


class Precision(StrEnum):
    """Precision of the encoder's matrix products."""

    FLOAT32 = "float32"
    BF16 = "bf16"


def embed(
    model: Model,
    data: Data,
    output: Output,
    cutoff: Cutoffs = None,
    at: At = None,
    vectors_as: Annotated[
        VectorLayout,
        typer.Option(
            "--format", help="Store vectors as one list per user, or as columns e0, e1 …."
        ),
    ] = VectorLayout.LIST,
    precision: Annotated[
        Precision, typer.Option(help="Precision of the encoder.")
    ] = Precision.FLOAT32,
    engine: EngineOption = Engine.LOCAL,
    master: Master = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an interrupted run that writes a folder.")
    ] = False,
) -> None:
    """Write a vector for every user, to one file or a folder of parts.

    Example: `userbert embed model data --cutoff 2017-09-01 -o embeddings.parquet`

    For many users, with resuming after an interruption: `userbert embed model data -o embeddings
    --resume`
    """
    require_torch()
    from userbert.data.use.pairs import instant_of, read_pairs, refuse_both
    from userbert.embedding.embed import is_single_file, write_embeddings
    from userbert.embedding.parts import users_before
    from userbert.model.userbert import UserBert

    if not resume:
        refuse_existing(output)
    if engine is Engine.LOCAL:
        is_single_file(output)
    opened = open_data(data)
    refuse_both(cutoff or None, at, ("--cutoff", "--at"))
    if at is None:
        instants = [instant_of(moment, opened, "--cutoff") for moment in cutoff or []]
        selection: Selection = users_before(opened, instants or [opened.default_cutoff], "--cutoff")
    else:
        selection = read_pairs(at, opened)
    trained = UserBert.from_pretrained(model)
    with engine_session(engine, master) as spark:
        vectors = write_embeddings(
            trained,
            opened,
            selection,
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
        typer.Argument(metavar="MODEL|TASK…", help="Models and tasks: folders or exported files."),
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen on. Addresses other than loopback need --tokens.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port; 0 chooses any free port.")
    ] = 8000,
    tokens: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File of callers' Bearer tokens, one per line."),
    ] = None,
    backend: Annotated[
        BackendName, typer.Option(help="Compute with PyTorch, or with ONNX Runtime without torch.")
    ] = BackendName.TORCH,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DATA", help="Prepared data whose users the explorer shows."),
    ] = None,
    runs: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Folder of models and evaluations that the explorer shows."
        ),
    ] = None,
    queue: Annotated[
        int, typer.Option(min=1, help="Maximum number of waiting users; further calls get 429.")
    ] = 128,
) -> None:
    """Serve vectors and scores for raw events over HTTP.

    Example: `userbert serve task --port 8000`
    """
    require_package("fastapi", "serve")
    from userbert.service.app import Settings, create_app, run
    from userbert.service.loaded_models import load_models
    from userbert.service.middleware import LOOPBACK, read_tokens

    accepted = () if tokens is None else read_tokens(tokens)
    if host not in LOOPBACK and not accepted:
        raise InputError(
            f"--host {host}: other machines could read your users' data. Give --tokens FILE with "
            "one token per line, or leave --host out. The service speaks plain HTTP: put it behind "
            "an HTTPS proxy."
        )
    if backend is BackendName.TORCH:
        require_torch()
    if runs is not None and not runs.is_dir():
        raise InputError(
            f"--runs {runs}: expected a folder; {describe_path(runs)}. Choose another path."
        )
    served = load_models(models, backend.value)
    settings = Settings(tokens=accepted, hosts=LOOPBACK if host in LOOPBACK else (), queue=queue)
    app = create_app(served, settings, None if data is None else open_data(data), runs)
    names = ", ".join(served)
    run(app, host, port, lambda url: show(f"{url} serves {names}; its API: {url}/openapi.json"))


def lookalike(
    embeddings: Annotated[
        Path, typer.Argument(metavar="EMBEDDINGS", help="File or folder that `embed` wrote.")
    ],
    seeds: Annotated[
        Path, typer.Option(metavar="FILE", help="File of example users: column user_id.")
    ],
    k: Annotated[int, typer.Option("-k", min=1, help="Maximum number of users to list.")],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", help="CSV or Parquet file to write. It must not exist."),
    ],
    by: Annotated[
        ScoringMethod,
        typer.Option(
            help="Score by a regression of seeds against others (linear), distance to the seeds' "
            "mean (centroid), or distance to any seed (nearest)."
        ),
    ] = ScoringMethod.LINEAR,
    exclude: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File of users to leave out: column user_id."),
    ] = None,
) -> None:
    """List the users who are most similar to seed users.

    Example: `userbert lookalike embeddings.parquet --seeds buyers.csv -k 500 -o list.csv`
    """
    from userbert.embedding.embeddings import Embeddings
    from userbert.search.lookalike import find_lookalikes, require_list_ending, write_list

    refuse_existing(output)
    require_list_ending(output)
    opened = Embeddings.open(embeddings)
    lookalikes = find_lookalikes(opened, seeds, k, by=by.value, exclude=exclude or ())
    write_list(lookalikes.users, output)
    for line in lookalikes.report_lines(output):
        show(line)


def export(
    network: Annotated[
        Path,
        typer.Argument(metavar="MODEL|TASK", help="Folder of a pretrained model or of a task."),
    ],
    output: Output,
) -> None:
    """Write a model or a task as one ONNX file, which runs without torch.

    Example: `userbert export task -o task.onnx`
    """
    require_torch()
    if missing := [name for name in ("onnx", "onnxscript", "onnxruntime") if not find_spec(name)]:
        raise InputError(
            f"this needs {' and '.join(missing)}. Install with: pip install 'userbert[export]'"
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
