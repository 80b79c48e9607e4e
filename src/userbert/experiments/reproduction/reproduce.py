"""Run a reproduction: data, its parts side by side, then tables, plots and a page.

In: a folder, data sets, how thoroughly. Out: in the folder
```
DIR/
  DATA/plan.json             what is run, and by which version
  DATA/parts/MODEL-….json    each part, as it is done: with plan.json all that tables are made of
  DATA/variations/…          the same of parts in which one thing was changed
  results.json, results.csv  rows (docs/reference/design.md, "Results for machines")
  reproduction.md, *.svg     tables and plots in the paper's form
  work/DATA-PLAN/            logs, prepared data, weights; may be removed at the end
```
Parts that are there are not done again, so an interrupted run goes on. `userbert reproduce` runs
it; `python -m userbert.experiments.reproduction.reproduce DIR` writes what came out so far.
"""

import hashlib
import json
import sys
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from userbert.errors import InputError
from userbert.experiments.reproduction.collect import rows_of, varied_rows
from userbert.experiments.reproduction.page import publish
from userbert.experiments.reproduction.parts import DataSet, do, make_data, open_data
from userbert.experiments.reproduction.plan import Part, Plan, parts
from userbert.folders import read_json, replacing_file, write_json
from userbert.progress import progress
from userbert.provenance import made
from userbert.workers import cores, processes


def reproduce(folder: Path, plans: Sequence[Plan], command: Sequence[str]) -> Path:
    """Do what is left of the plans, then write what came out; return the page's path.

    Raises `InputError` if the folder holds another plan's parts, or cannot be written.
    """
    for plan in plans:
        claim(folder, plan)
    for plan in plans:
        make_data(plan, _work(folder, plan))
    for plan in plans:
        run(folder, plan, command)
    return write_results(folder, command)


def claim(folder: Path, plan: Plan) -> None:
    """Make the folder the plan's, or check that it is."""
    path = folder / plan.data / "plan.json"
    wanted = {"version": version("userbert"), **plan.model_dump(mode="json")}
    if path.exists():
        found = read_json(path)
        changed = [
            f"{key}: {found.get(key)} there, {wanted.get(key)} asked"
            for key in dict.fromkeys([*wanted, *found])
            if found.get(key) != wanted.get(key)
        ]
        if changed:
            raise InputError(
                f"{folder} holds another reproduction ({'; '.join(changed)}). Choose another -o, "
                "or remove it first."
            )
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing_file(path) as temporary:
            write_json(temporary, wanted)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror}. Choose another -o.") from error


def run(folder: Path, plan: Plan, command: Sequence[str]) -> None:
    """Do the parts that are not there yet, one a core at a time."""
    waiting = [part for part in parts(plan) if not _file(folder, plan, part).exists()]
    if not waiting:
        return
    work = _work(folder, plan)
    open_data(plan, work)  # what is wrong with it is told here, and not by a process that dies
    running: dict[Future[Any], Part] = {}
    with (
        processes(cores(), _open, plan, work) as pool,
        progress(f"reproducing {plan.data} (parts)", len(waiting)) as advance,
    ):
        # No more at a time than there are processes: a pool starts what it has queued even when
        # it is told to end.
        while waiting or running:
            while len(running) < cores() and (part := next_part(waiting, running.values())):
                waiting.remove(part)
                running[pool.submit(_do, part, list(command))] = part
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                part = running.pop(future)
                path = _file(folder, plan, part)
                path.parent.mkdir(exist_ok=True)
                with replacing_file(path) as temporary:
                    write_json(temporary, future.result())
                advance(1, part.name)


def next_part(waiting: Sequence[Part], running: Collection[Part]) -> Part | None:
    """The first part whose weights nobody is making; None if there is none."""
    taken = {part.weights for part in running}
    return next((part for part in waiting if part.weights not in taken), None)


def write_results(folder: Path, command: Sequence[str]) -> Path:
    """Make rows, tables and plots of all parts that are done; return the page's path."""
    rows: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    plans = [_planned(path) for path in sorted(folder.glob("*/plan.json"))]
    for plan in plans:
        mine, varied = (
            [_read(part) for part in sorted((folder / plan.data / kind).glob("*.json"))]
            for kind in ("parts", "variations")
        )
        rows += rows_of(plan.data, mine)
        rows += varied_rows(plan, mine, varied)
        found += [*mine, *varied]
    if not rows:
        raise InputError(f"{folder} has no part that is done. Run `userbert reproduce` first.")
    origin = _origin(found, plans, command)
    results = {"made": origin, "rows": rows}
    with replacing_file(folder / "results.json") as temporary:
        write_json(temporary, results)
    return publish(results, folder)


def _read(part: Path) -> dict[str, Any]:
    try:
        return dict(read_json(part))
    except (InputError, TypeError, ValueError) as error:
        raise InputError(f"{error} Remove {part.name}; the part is then done again.") from error


def _planned(path: Path) -> Plan:
    fields = {key: value for key, value in read_json(path).items() if key != "version"}
    try:
        return Plan.model_validate_json(json.dumps(fields))
    except ValidationError as error:
        raise InputError(f"{path} is of another version of userbert: {error}.") from error


def _origin(
    found: Sequence[Mapping[str, Any]], plans: Sequence[Plan], command: Sequence[str]
) -> dict[str, Any]:
    """Where the rows come from: the parts' commits and data, what was planned, what it took."""
    seeds = sorted({part["seed"] for part in found})
    origin = made(command, seeds, None)
    for key in ("commit", "data"):
        origin[key] = ", ".join(dict.fromkeys(str(part["made"][key]) for part in found))
    planned = sum(len(parts(plan)) for plan in plans)
    return {
        **origin,
        "parts": f"{len(found)} of {planned}",
        "cpu_hours": round(sum(part["seconds"] for part in found) / 3600, 2),
        "plans": [plan.model_dump(mode="json") for plan in plans],
    }


def _work(folder: Path, plan: Plan) -> Path:
    """Where data and weights are kept: a plan by which they would be others must not take them."""
    decisive = plan.model_dump_json(include={"data", "users", "scale", "batches", "batch_size"})
    digest = hashlib.sha256(f"{version('userbert')} {decisive}".encode()).hexdigest()
    return folder / "work" / f"{plan.data}-{digest[:8]}"


def _file(folder: Path, plan: Plan, part: Part) -> Path:
    kind = "variations" if part.is_varied else "parts"
    return folder / plan.data / kind / f"{part.name}.json"


_mine: list[tuple[Plan, Path, DataSet]] = []
"""What this process works on, if it is one of the pool's."""


def _open(plan: Plan, work: Path) -> None:
    torch.set_num_threads(1)
    threadpool_limits(1)
    _mine.append((plan, work, open_data(plan, work)))


def _do(part: Part, command: Sequence[str]) -> Any:
    plan, work, source = _mine[0]
    return do(part, plan, source, work, command)


if __name__ == "__main__":
    module = "userbert.experiments.reproduction.reproduce"
    write_results(Path(sys.argv[1]), ["python", "-m", module, *sys.argv[1:]])
