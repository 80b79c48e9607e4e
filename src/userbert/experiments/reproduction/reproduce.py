"""Runs a reproduction: data, jobs in parallel, then tables, plots and a page.

In: a folder, and a plan per data set. Out: in the folder
```
DIR/
  DATA/plan.json             the plan, and the version of userbert that runs it
  DATA/parts/MODEL-….json    results of each finished job; all tables are made from these and plans
  DATA/variations/…          results of each job with one changed setting
  results.json, results.csv  rows (docs/reference/design.md, "Results for machines")
  reproduction.md, *.svg     tables and plots in the paper's form
  work/DATA-DIGEST/          logs, prepared data, weights; can be removed at the end
```
Jobs with a result are not run again, so an interrupted run can be restarted. `userbert reproduce`
runs this; `python -m userbert.experiments.reproduction.reproduce DIR` writes the results so far.
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
from userbert.experiments.reproduction.jobs import JobData, make_data, open_data, run_job
from userbert.experiments.reproduction.page import publish
from userbert.experiments.reproduction.plan import Job, Plan, jobs
from userbert.folders import read_json, replacing_file, write_json
from userbert.progress import progress
from userbert.provenance import provenance_record
from userbert.workers import cores, process_pool


def reproduce(folder: Path, plans: Sequence[Plan], command: Sequence[str]) -> Path:
    """Runs the remaining jobs of the plans and writes the results; returns the path of the page.

    Raises `InputError` if the folder holds another plan, or cannot be written.
    """
    for plan in plans:
        claim_folder(folder, plan)
    for plan in plans:
        make_data(plan, _work_folder(folder, plan))
    for plan in plans:
        run_jobs(folder, plan, command)
    return write_results(folder, command)


def claim_folder(folder: Path, plan: Plan) -> None:
    """Writes the plan into the folder, or checks that the folder already holds it.

    Raises `InputError` if the folder holds another plan, or cannot be written.
    """
    path = folder / plan.data / "plan.json"
    content = {"version": version("userbert"), **plan.model_dump(mode="json")}
    if path.exists():
        existing = read_json(path)
        differences = [
            f"{key}: {existing.get(key)} in the folder, {content.get(key)} requested"
            for key in dict.fromkeys([*content, *existing])
            if existing.get(key) != content.get(key)
        ]
        if differences:
            raise InputError(
                f"{folder} holds another reproduction ({'; '.join(differences)}). Choose another "
                "-o, or remove it first."
            )
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing_file(path) as temporary:
            write_json(temporary, content)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror}. Choose another -o.") from error


def run_jobs(folder: Path, plan: Plan, command: Sequence[str]) -> None:
    """Runs the jobs that have no result yet, as many at a time as there are cores."""
    waiting = [job for job in jobs(plan) if not _result_file(folder, plan, job).exists()]
    if not waiting:
        return
    work = _work_folder(folder, plan)
    open_data(plan, work)  # raises errors here rather than in a worker process
    running: dict[Future[Any], Job] = {}
    with (
        process_pool(cores(), _open_in_worker, plan, work) as pool,
        progress(f"reproducing {plan.data} (jobs)", len(waiting)) as advance,
    ):
        # Submit one job per process: a pool starts its queued jobs even after a shutdown request.
        while waiting or running:
            while len(running) < cores() and (job := next_job(waiting, running.values())):
                waiting.remove(job)
                running[pool.submit(_run_in_worker, job, list(command))] = job
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                job = running.pop(future)
                path = _result_file(folder, plan, job)
                path.parent.mkdir(exist_ok=True)
                with replacing_file(path) as temporary:
                    write_json(temporary, future.result())
                advance(1, job.name)


def next_job(waiting: Sequence[Job], running: Collection[Job]) -> Job | None:
    """Returns the first waiting job whose weights no running job is training, or None."""
    in_use = {job.weights for job in running}
    return next((job for job in waiting if job.weights not in in_use), None)


def write_results(folder: Path, command: Sequence[str]) -> Path:
    """Writes rows, tables and plots of all finished jobs; returns the path of the page.

    Raises `InputError` if no job is finished, or a file in the folder cannot be read.
    """
    rows: list[dict[str, Any]] = []
    job_results: list[dict[str, Any]] = []
    plans = [_read_plan(path) for path in sorted(folder.glob("*/plan.json"))]
    for plan in plans:
        usual_results, variation_results = (
            [_read_result(path) for path in sorted((folder / plan.data / kind).glob("*.json"))]
            for kind in ("parts", "variations")
        )
        rows += rows_of(plan.data, usual_results)
        rows += varied_rows(plan, usual_results, variation_results)
        job_results += [*usual_results, *variation_results]
    if not rows:
        raise InputError(f"{folder} has no finished job. Run `userbert reproduce` first.")
    origin = _origin(job_results, plans, command)
    results = {"made": origin, "rows": rows}
    with replacing_file(folder / "results.json") as temporary:
        write_json(temporary, results)
    return publish(results, folder)


def _read_result(path: Path) -> dict[str, Any]:
    """Reads the result of a job; raises `InputError` if the file is damaged."""
    try:
        return dict(read_json(path))
    except (InputError, TypeError, ValueError) as error:
        raise InputError(f"{error} Remove {path.name} and run the job again.") from error


def _read_plan(path: Path) -> Plan:
    """Reads a plan; raises `InputError` if this version of userbert cannot read it."""
    fields = {key: value for key, value in read_json(path).items() if key != "version"}
    try:
        return Plan.model_validate_json(json.dumps(fields))
    except ValidationError as error:
        raise InputError(f"{path} was written by another version of userbert: {error}.") from error


def _origin(
    results: Sequence[Mapping[str, Any]], plans: Sequence[Plan], command: Sequence[str]
) -> dict[str, Any]:
    """Returns the provenance of the rows.

    It holds the commits and data of the jobs, how many jobs are finished, CPU hours, and the plans.
    """
    seeds = sorted({result["seed"] for result in results})
    origin = provenance_record(command, seeds, None)
    for key in ("commit", "data"):
        origin[key] = ", ".join(dict.fromkeys(str(result["made"][key]) for result in results))
    planned = sum(len(jobs(plan)) for plan in plans)
    return {
        **origin,
        "parts": f"{len(results)} of {planned}",
        "cpu_hours": round(sum(result["seconds"] for result in results) / 3600, 2),
        "plans": [plan.model_dump(mode="json") for plan in plans],
    }


def _work_folder(folder: Path, plan: Plan) -> Path:
    """Returns the folder of a plan's data and weights.

    Its digest covers the settings on which data and weights depend, and the version of userbert.
    """
    settings = plan.model_dump_json(include={"data", "users", "scale", "batches", "batch_size"})
    digest = hashlib.sha256(f"{version('userbert')} {settings}".encode()).hexdigest()
    return folder / "work" / f"{plan.data}-{digest[:8]}"


def _result_file(folder: Path, plan: Plan, job: Job) -> Path:
    """Returns the path of a job's result."""
    kind = "variations" if job.is_varied else "parts"
    return folder / plan.data / kind / f"{job.name}.json"


_worker_state: list[tuple[Plan, Path, JobData]] = []
"""Plan, folder and data of this worker process; empty in the main process."""


def _open_in_worker(plan: Plan, work: Path) -> None:
    """Opens the data of a plan in a worker process, which uses one thread."""
    torch.set_num_threads(1)
    threadpool_limits(1)
    _worker_state.append((plan, work, open_data(plan, work)))


def _run_in_worker(job: Job, command: Sequence[str]) -> Any:
    """Runs a job on the data of this worker process."""
    plan, work, source = _worker_state[0]
    return run_job(job, plan, source, work, command)


if __name__ == "__main__":
    module = "userbert.experiments.reproduction.reproduce"
    write_results(Path(sys.argv[1]), ["python", "-m", module, *sys.argv[1:]])
