"""Compares two training processes with one thread each to one process with two threads.

In: nothing. Out: rows of milliseconds per batch and their ratio, on the same batches. Run it by
`python -m research.processes docs/results/processes.json`; it starts itself again under torchrun,
with one and with two processes in turn.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from userbert.benchmarks.train import LEARNING_RATE
from userbert.benchmarks.workloads import WORKLOADS, draw_batches, new_model
from userbert.data.batches import slice_users
from userbert.folders import write_json
from userbert.model.userbert import autocast
from userbert.progress import progress
from userbert.provenance import provenance_record
from userbert.training.distributed import Processes, exchange_gradients, join_processes
from userbert.training.objectives import masked_words
from userbert.training.optim import Adam
from userbert.training.settings import SAMPLES

_BATCHES = 16
"""Number of batches per round."""
_ROUNDS = 5
"""Number of timed rounds of a run."""
_CORES = 2
"""Number of cores that the processes of a run share."""


def _step_seconds(workload: str, processes: Processes) -> float:
    """Trains on this process's share of the users of each batch; returns seconds per batch.

    They are the median over rounds, without a warm-up round.
    """
    model = new_model().train()
    model.sample_softmax(SAMPLES)
    optimizer = Adam(model, LEARNING_RATE, single_process=processes.world == 1)
    parameters = list(model.parameters())
    precision = model.fastest_precision(processes.device)
    batches = draw_batches(WORKLOADS[workload])[:_BATCHES]
    shares = [processes.share(len(batch)) for batch in batches]
    own_batches = [
        slice_users(batch, share.start, share.stop)
        for batch, share in zip(batches, shares, strict=True)
    ]
    seconds = []
    for _ in range(_ROUNDS + 1):
        started = time.perf_counter()
        for number, batch in enumerate(own_batches):
            torch.manual_seed(number)
            with autocast(processes.device, precision):
                losses = masked_words(model, batch, np.random.default_rng(number))
            optimizer.zero_grad()
            torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
            exchange_gradients(parameters, len(batch), processes)
            optimizer.step()
        seconds.append((time.perf_counter() - started) / len(own_batches))
    return median(seconds[1:])


def _run_processes(workload: str, processes: int, output: Path) -> float:
    """Returns the seconds per batch of `processes` processes, which share the cores.

    The first process writes them to `output`.
    """
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        f"--nproc-per-node={processes}", "-m", "research.processes", "--take",
        workload, str(output),
    ]  # fmt: skip
    threads = {"OMP_NUM_THREADS": str(_CORES // processes), "GOMP_SPINCOUNT": "30000"}
    subprocess.run(command, check=True, env={**os.environ, **threads})
    return float(json.loads(output.read_text(encoding="utf-8")))


def compare() -> list[dict[str, Any]]:
    """Returns a row per workload, each measured three times in turns."""
    rows = []
    names = ("sparse", "full")
    with (
        tempfile.TemporaryDirectory() as folder,
        progress("runs", len(names) * 6) as advance,
    ):
        for name in names:
            seconds_by_processes: dict[int, list[float]] = {1: [], _CORES: []}
            for _ in range(3):
                for processes, seconds in seconds_by_processes.items():
                    seconds.append(_run_processes(name, processes, Path(folder) / "seconds.json"))
                    advance(1, name)
            one_process, two_processes = (
                median(seconds) for seconds in seconds_by_processes.values()
            )
            rows.append(
                {
                    "workload": name,
                    "variant": "sampled",
                    "one_process_ms": round(one_process * 1e3, 2),
                    "two_processes_ms": round(two_processes * 1e3, 2),
                    "ratio": round(one_process / two_processes, 3),
                }
            )
    return rows


if __name__ == "__main__":
    if sys.argv[1] == "--take":
        with join_processes(os.environ) as this_process:
            seconds = _step_seconds(sys.argv[2], this_process)
            if this_process.is_first:
                Path(sys.argv[3]).write_text(json.dumps(seconds), encoding="utf-8")
    else:
        command = ["python", "-m", "research.processes", *sys.argv[1:]]
        write_json(
            Path(sys.argv[1]), {"made": provenance_record(command, [0], None), "rows": compare()}
        )
