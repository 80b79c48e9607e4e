"""Pretraining: prepared data → a model folder (paper §3.2, §4.4).

In: prepared data, a preset or a configuration, and the cut-offs that bound what is learned. Out: a
`UserBert`, and its folder, whole or not at all. A folder beside the output keeps checkpoints until
then. Several processes may run it together, each on its own range of users.
"""

import hashlib
import json
import platform
import shutil
from collections.abc import Mapping, Sequence
from copy import deepcopy
from datetime import date, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from userbert.data.ragged import Int64
from userbert.data.store import PreparedData
from userbert.data.use.loading import SequenceBatches, sequence_lengths
from userbert.data.use.pairs import Pairs, instant_of, pairs_at, pairs_of
from userbert.errors import InputError
from userbert.folders import refuse_existing
from userbert.model.userbert import UserBert
from userbert.resuming import refuse_other
from userbert.training.checkpoint import publish, run_folder, work_folder
from userbert.training.cutoffs import moments
from userbert.training.distributed import Processes, best_device, from_first, gathered
from userbert.training.loop import LoopConfig, Trained, train
from userbert.training.objectives import Objective, masked_words, several
from userbert.training.settings import DEFAULT, PretrainConfig, preset_named
from userbert.training.svd_init import leading_directions, start_at, timings
from userbert.training.tracking import Tracked, Tracker
from userbert.training.validation import is_held_out, mean_losses, validation_batches


def pretrain(
    data: PreparedData,
    output: str | Path | None = None,
    *,
    preset: str = DEFAULT,
    config: PretrainConfig | None = None,
    steps: int | None = None,
    seed: int = 0,
    before: str | date | datetime | None = None,
    at: Any | None = None,
    hide: Sequence[str] = (),
    from_model: UserBert | None = None,
    resume: bool = False,
    processes: Processes | None = None,
    trackers: Sequence[Tracker] = (),
) -> UserBert:
    """Pretrain a UserBERT (paper §3.2, §4.4), and save it to `output` if given.

    What is learned lies before one cut-off: `before`, else the schema's `fit_before`, else just
    after the last event; or before each user's own, in `at`, a frame of `user_id` and `cutoff`.
    `hide` names profile fields that the model must not see. `config` replaces the preset's (see
    `configure`), `steps` its number of batches. `from_model` goes on from
    another model's weights, in its size. `resume` goes on with an interrupted run of the same
    settings, starts one if there is none, and has nothing left to do if it is done. `processes` say
    how many run together; by default this is the only one. `trackers` are told the settings and
    every line of metrics.

    Raises `InputError` if there is nothing to learn from, or `output` or an interrupted run is in
    the way; `ModelError` if the data have other ids than `from_model`.
    """
    config = config or preset_named(preset)
    if steps is not None:
        config = config.model_copy(update={"steps": steps})
    processes = processes or Processes(device=best_device())
    output = None if output is None else Path(output)
    if output is not None and not resume:
        refuse_existing(output)
    if config.batch_size < processes.world:
        raise InputError(
            f"a batch of {config.batch_size} users cannot be split over {processes.world} "
            "processes. Start fewer processes, or raise batch_size."
        )
    bounds = _in_row_order(_pairs(data, before, at))
    seen = moments(data, bounds, config.cutoffs, config.horizon_days, seed)
    asked = seen.pairs
    learned, held_out = own_pairs(data, asked, config.held_out, processes)
    sizes = gathered((len(learned), len(held_out)), processes)
    if not any(size for size, _ in sizes):
        raise InputError(
            f"{data.path} has no user with a word before the cut-off. Choose a later one."
        )
    if not all(size for size, _ in sizes):
        raise InputError(
            f"{data.path} has too few users for {processes.world} processes: one has none to learn "
            "from. Start fewer processes."
        )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = _new_model(data, config, hide) if from_model is None else deepcopy(from_model)
    if from_model is not None:
        _check_origin(data, model, hide, config)
    else:
        _start(model, data, bounds, asked, config=config, seed=seed, processes=processes)
    model.sample_softmax(config.samples if config.softmax == "sampled" else None)
    precision = (
        # Machines may differ in what they are fast at, but must compute alike.
        from_first(lambda: model.fastest_precision(processes.device), processes)
        if config.precision == "auto"
        else config.precision
    )
    earlier = dict(model.record)
    record = {
        "preset": preset,
        "config": {**config.model_dump(mode="json"), "model": model.config.model_dump(mode="json")},
        "seed": seed,
        # The batches of so many are others than those of one.
        "processes": processes.world,
        # The weights remember what an earlier training saw.
        "before": max(int(bounds.cutoffs.max()), earlier.get("before", 0)),
        "at": None if at is None else fingerprint(data, bounds),
        "hidden": list(model.hidden),
        "pairs": sum(size for size, _ in sizes),
        "held_out_pairs": sum(size for _, size in sizes),
        "data": data.checksum,
        "precision": precision,
        "from": earlier or None,
    }
    if output is not None and output.exists():
        return _finished(output, record, processes)
    # What went before has a run of its own.
    settings = {name: value for name, value in record.items() if name != "from"}
    objective = _objective(config)
    until = seen.until if config.objectives.future else None
    validation = validation_batches(
        data,
        _take(asked, held_out),
        held_out,
        model.hidden,
        processes,
        until=None if until is None else until[held_out],
    )
    has_validation = any(size for _, size in sizes)
    size = min(len(processes.share(config.batch_size)), len(learned))
    own = _take(asked, learned)
    with run_folder(output, record, resume=resume, is_first=processes.is_first) as work:
        trained = train(
            model.to(processes.device),
            objective,
            SequenceBatches(
                data,
                own.rows,
                own.cutoffs,
                batch_size=size,
                seed=seed,
                hidden=model.hidden,
                numbers=learned,
                until=None if until is None else until[learned],
                batches_per_epoch=min(gathered(len(learned) // size, processes)),
            ),
            LoopConfig(
                steps=config.steps,
                learning_rate=config.learning_rate,
                decay=config.decay,
                seed=seed,
                precision=precision,
                checkpoint_every=config.checkpoint_every,
            ),
            folder=work,
            validate=(lambda: mean_losses(model, objective, validation, precision, processes))
            if has_validation
            else None,
            processes=processes,
            tracked=Tracked(trackers if processes.is_first else (), settings),
            description="pretraining",
        )
        model.cpu().eval()
        model.sample_softmax(None)
        if processes.is_first:
            people = len(np.unique(bounds.rows))
            first = min(data.first_event, earlier.get("first_event", data.first_event))
            model.record = {**record, "first_event": first, "people": people, **_outcome(trained)}
            if output is not None and work is not None:
                publish(model.write, work, output)
    return model


def _objective(config: PretrainConfig) -> Objective:
    weights = config.objectives.model_dump()
    if weights["hidden"] or weights["future"]:
        hide = (config.least_hidden, config.most_hidden)
        return partial(several, weights=weights, hide=hide, keep_position=config.keep_position)
    return partial(masked_words, keep_position=config.keep_position)


def fingerprint(data: PreparedData, pairs: Pairs) -> str:
    """SHA-256 of a set of (user, cut-off) pairs, whatever their order."""
    users = data.user_ids.take(pl.Series(pairs.rows).to_arrow()).to_pylist()
    lines = sorted(zip(users, pairs.cutoffs.tolist(), strict=True))
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()


def _pairs(data: PreparedData, before: str | date | datetime | None, at: Any | None) -> Pairs:
    if at is not None:
        if before is not None:
            raise InputError("--at names each user's cut-off; leave --before out.")
        return pairs_of(pl.DataFrame(at), data, "at")
    if before is not None:
        return pairs_at(data, [instant_of(before, data, "--before")], "--before")
    return pairs_at(data, [data.schema.fit_before_us or data.default_cutoff], "fit_before")


def _in_row_order(pairs: Pairs) -> Pairs:
    """Neighbors lie in one shard, whatever the order of the file that asked for them."""
    order = np.lexsort((pairs.cutoffs, pairs.rows))
    return _take(pairs, order)


def _take(pairs: Pairs, numbers: Int64) -> Pairs:
    return Pairs(pairs.rows[numbers], pairs.cutoffs[numbers])


def own_pairs(
    data: PreparedData, asked: Pairs, held_out: float, processes: Processes
) -> tuple[Int64, Int64]:
    """The numbers of the pairs that this process learns from, and validates on.

    They are of a range of neighboring users, so a process reads the shards of its own users only.
    """
    own = np.array(processes.share(len(asked)), dtype=np.int64)
    pairs = _take(asked, own)
    # Without a word there is nothing to predict.
    own = own[sequence_lengths(data, pairs.rows, pairs.cutoffs) > 0]
    is_out = is_held_out(data, asked.rows[own], held_out)
    return own[~is_out], own[is_out]


def _new_model(data: PreparedData, config: PretrainConfig, hide: Sequence[str]) -> UserBert:
    unknown = sorted(set(hide) - set(data.vocabularies.profile))
    if unknown:
        raise InputError(
            f"{data.path} has no profile field {unknown[0]!r} to hide; "
            f"its fields are: {', '.join(data.vocabularies.profile) or 'none'}."
        )
    weights = config.objectives
    tells = {"tells_hidden": weights.hidden > 0, "tells_future": weights.future > 0}
    return UserBert(
        config.model.model_copy(update=tells),
        data.input_shape(hide),
        schema=data.schema,
        vocabularies=data.vocabularies,
        hidden=hide,
    )


def _start(
    model: UserBert,
    data: PreparedData,
    bounds: Pairs,
    asked: Pairs,
    *,
    config: PretrainConfig,
    seed: int,
    processes: Processes,
) -> None:
    """Tell a new model what counts and times of users are like, of those it is to learn from."""
    newest, every = (
        _take(pairs, np.flatnonzero(~is_held_out(data, pairs.rows, config.held_out)))
        for pairs in (bounds, asked)
    )
    summary, timing = model.embedding.summary, model.embedding.timing
    # Found by one process, as others may round otherwise.
    if config.start_from_counts:
        assert summary is not None, "settings that start from counts have a summary"
        start_at(
            summary, from_first(lambda: leading_directions(summary, data, newest, seed), processes)
        )
    if timing is not None:
        timing.measure_by(from_first(lambda: timings(data, every, seed), processes))


def _check_origin(
    data: PreparedData, model: UserBert, hide: Sequence[str], config: PretrainConfig
) -> None:
    model.check_fits(data)
    missing = [name for name in ("hidden", "future") if getattr(config.objectives, name)]
    missing = [name for name in missing if name not in model.user_heads]
    if missing:
        raise InputError(
            f"the model to go on from has no heads for objectives.{missing[0]}: it was pretrained "
            "without. Leave the objective out, or pretrain from the start."
        )
    if set(hide) - set(model.hidden):
        raise InputError(
            f"the model to go on from has seen {', '.join(sorted(set(hide) - set(model.hidden)))}: "
            "it cannot be hidden any more. Pretrain from the start."
        )


def _finished(output: Path, record: Mapping[str, Any], processes: Processes) -> UserBert:
    """The model of a run that was killed when it was done, or nearly: its folder is whole."""
    model = UserBert.from_pretrained(output)
    refuse_other(output, model.record, record)
    if processes.is_first:
        shutil.rmtree(work_folder(output), ignore_errors=True)
    return model


def _outcome(trained: Trained) -> dict[str, Any]:
    """What the record says of a run that is done."""
    losses = next(line for line in reversed(trained.lines) if "loss" in line)
    validation = [line["validation"] for line in trained.lines if "validation" in line]
    return {
        "loss": losses["loss"],
        "losses": losses["losses"],
        "validation": validation[-1] if validation else None,
        "users": trained.users,
        "seconds": round(trained.seconds, 3),
        "users_per_s": round(trained.users / trained.seconds, 1),
        "versions": {
            "userbert": version("userbert"),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
