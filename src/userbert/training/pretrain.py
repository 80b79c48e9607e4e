"""Pretraining: prepared data → a model folder (paper §3.2, §4.4).

In: prepared data, a preset or a configuration, and cut-offs: the model learns from earlier events
only. Out: a `UserBert` and its folder, which appears complete or not at all. Until then, a hidden
folder next to the output holds the checkpoints. Several processes may train a model together, each
on a different range of users.
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
from userbert.data.use.pairs import Pairs, instant_of, pairs_at, pairs_in, refuse_both
from userbert.errors import InputError
from userbert.folders import refuse_existing
from userbert.model.userbert import UserBert
from userbert.resuming import refuse_other_settings
from userbert.training.checkpoint import publish, run_folder, work_folder
from userbert.training.cutoffs import training_pairs
from userbert.training.distributed import Processes, all_gather, best_device, run_on_first
from userbert.training.loop import LoopConfig, TrainingResult, train
from userbert.training.objectives import Objective, masked_words, weighted_objectives
from userbert.training.settings import DEFAULT, PretrainConfig, preset_named
from userbert.training.svd_init import initialize_summary, leading_directions, timings
from userbert.training.tracking import Tracker, Tracking
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
    """Pretrains a UserBERT (paper §3.2, §4.4), and saves it to `output` if given.

    The model learns from events before a cut-off: `before`, else the schema's `fit_before`, else
    just after the last event. `at`, a frame with columns `user_id` and `cutoff`, sets a cut-off per
    user instead. `hide` names profile fields that the model must not see.

    `config` replaces the settings of `preset` (see `configure`); `steps` replaces the number of
    batches in the settings. `seed` determines all random draws. `from_model` is a model to start
    from: its weights, its size and its hidden fields. With `resume`, an interrupted run with the
    same settings continues, the model of a complete run is returned, and else a new run starts.
    `processes` describes the processes that train together; by default, this process trains alone.
    `trackers` get the settings and every line of metrics.

    Raises `InputError` if an argument is not valid, if no user has a word before the cut-off, if
    `from_model` does not support the objectives or has seen a field of `hide`, or, without
    `resume`, if `output` or an interrupted run exists. Raises `ModelError` if `data` has other ids
    than `from_model`.
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
    bounds = _in_row_order(_bounds(data, before, at))
    draws = training_pairs(data, bounds, config.cutoffs, config.horizon_days, seed)
    pairs = draws.pairs
    learned, held_out = split_pairs(data, pairs, config.held_out, processes)
    sizes = all_gather((len(learned), len(held_out)), processes)
    if not any(size for size, _ in sizes):
        raise InputError(
            f"{data.path} has no user with a word before the cut-off. Choose a later cut-off."
        )
    if not all(size for size, _ in sizes):
        raise InputError(
            f"{data.path} has too few users for {processes.world} processes: at least one "
            "process has no user to learn from. Start fewer processes."
        )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = _new_model(data, config, hide) if from_model is None else deepcopy(from_model)
    if from_model is not None:
        _check_origin(data, model, hide, config)
    else:
        _initialize(model, data, bounds, pairs, config=config, seed=seed, processes=processes)
    model.sample_softmax(config.samples if config.softmax == "sampled" else None)
    precision = (
        # All machines must use the same precision, even if they differ in the fastest.
        run_on_first(lambda: model.fastest_precision(processes.device), processes)
        if config.precision == "auto"
        else config.precision
    )
    origin_record = dict(model.record)
    record = {
        "preset": preset,
        "config": {**config.model_dump(mode="json"), "model": model.config.model_dump(mode="json")},
        "seed": seed,
        # Batches depend on the number of processes.
        "processes": processes.world,
        # The weights of `from_model` may have learned from later events.
        "before": max(int(bounds.cutoffs.max()), origin_record.get("before", 0)),
        "at": None if at is None else fingerprint(data, bounds),
        "hidden": list(model.hidden),
        "pairs": sum(size for size, _ in sizes),
        "held_out_pairs": sum(size for _, size in sizes),
        "data": data.checksum,
        "precision": precision,
        "from": origin_record or None,
    }
    if output is not None and output.exists():
        return _load_finished_run(output, record, processes)
    # The training of `from_model` has a separate tracked run.
    settings = {name: value for name, value in record.items() if name != "from"}
    objective = _objective(config)
    until = draws.until if config.objectives.future else None
    validation = validation_batches(
        data,
        _take(pairs, held_out),
        held_out,
        model.hidden,
        processes,
        until=None if until is None else until[held_out],
    )
    has_validation = any(size for _, size in sizes)
    size = min(len(processes.share(config.batch_size)), len(learned))
    process_pairs = _take(pairs, learned)
    with run_folder(output, record, resume=resume, is_first=processes.is_first) as work:
        result = train(
            model.to(processes.device),
            objective,
            SequenceBatches(
                data,
                process_pairs.rows,
                process_pairs.cutoffs,
                batch_size=size,
                seed=seed,
                hidden=model.hidden,
                numbers=learned,
                until=None if until is None else until[learned],
                batches_per_epoch=min(all_gather(len(learned) // size, processes)),
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
            tracking=Tracking(trackers if processes.is_first else (), settings),
            description="pretraining",
        )
        model.cpu().eval()
        model.sample_softmax(None)
        if processes.is_first:
            people = len(np.unique(bounds.rows))
            first = min(data.first_event, origin_record.get("first_event", data.first_event))
            model.record = {
                **record,
                "first_event": first,
                "people": people,
                **_result_record(result),
            }
            if output is not None and work is not None:
                publish(model.write, work, output)
    return model


def _objective(config: PretrainConfig) -> Objective:
    """Returns the objective that the settings describe."""
    weights = config.objectives.model_dump()
    if weights["hidden"] or weights["future"]:
        hide = (config.least_hidden, config.most_hidden)
        return partial(
            weighted_objectives, weights=weights, hide=hide, keep_position=config.keep_position
        )
    return partial(masked_words, keep_position=config.keep_position)


def fingerprint(data: PreparedData, pairs: Pairs) -> str:
    """Returns the SHA-256 of a set of (user, cut-off) pairs, independent of their order."""
    users = data.user_ids.take(pl.Series(pairs.rows).to_arrow()).to_pylist()
    lines = sorted(zip(users, pairs.cutoffs.tolist(), strict=True))
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()


def _bounds(data: PreparedData, before: str | date | datetime | None, at: Any | None) -> Pairs:
    """Returns the (user, cut-off) pairs that bound the events from which the model learns."""
    refuse_both(before, at, ("`before`", "`at`"))
    if at is not None:
        return pairs_in(pl.DataFrame(at), data, "at")
    if before is not None:
        return pairs_at(data, [instant_of(before, data, "before")], "before")
    return pairs_at(data, [data.schema.fit_before_us or data.default_cutoff], "fit_before")


def _in_row_order(pairs: Pairs) -> Pairs:
    """Sorts pairs by user and cut-off, so that neighbors are in one shard."""
    order = np.lexsort((pairs.cutoffs, pairs.rows))
    return _take(pairs, order)


def _take(pairs: Pairs, numbers: Int64) -> Pairs:
    """Returns the pairs at the indices `numbers`."""
    return Pairs(pairs.rows[numbers], pairs.cutoffs[numbers])


def split_pairs(
    data: PreparedData, pairs: Pairs, held_out: float, processes: Processes
) -> tuple[Int64, Int64]:
    """Returns the indices of this process's training pairs and of its validation pairs.

    Pairs without a word are left out. `held_out` is the share of users that are held out. The pairs
    of a process belong to neighboring users, so it reads only the shards of these users.
    """
    numbers = np.array(processes.share(len(pairs)), dtype=np.int64)
    process_pairs = _take(pairs, numbers)
    # In a sequence without words, there is nothing to predict.
    numbers = numbers[sequence_lengths(data, process_pairs.rows, process_pairs.cutoffs) > 0]
    is_validation = is_held_out(data, pairs.rows[numbers], held_out)
    return numbers[~is_validation], numbers[is_validation]


def _new_model(data: PreparedData, config: PretrainConfig, hide: Sequence[str]) -> UserBert:
    """Returns a model with random weights. Raises `InputError` if a field to hide is unknown."""
    unknown = sorted(set(hide) - set(data.vocabularies.profile))
    if unknown:
        raise InputError(
            f"{data.path} has no profile field {unknown[0]!r} to hide. "
            f"Its fields are: {', '.join(data.vocabularies.profile) or 'none'}."
        )
    weights = config.objectives
    predicted = {"tells_hidden": weights.hidden > 0, "tells_future": weights.future > 0}
    return UserBert(
        config.model.model_copy(update=predicted),
        data.input_shape(hide),
        schema=data.schema,
        vocabularies=data.vocabularies,
        hidden=hide,
    )


def _initialize(
    model: UserBert,
    data: PreparedData,
    bounds: Pairs,
    pairs: Pairs,
    *,
    config: PretrainConfig,
    seed: int,
    processes: Processes,
) -> None:
    """Initializes a new model's summary and timing from the users of the training pairs.

    `bounds` are the newest pairs, `pairs` all pairs; held-out users are left out of both.
    """
    newest_pairs, all_pairs = (
        _take(part, np.flatnonzero(~is_held_out(data, part.rows, config.held_out)))
        for part in (bounds, pairs)
    )
    summary, timing = model.embedding.summary, model.embedding.timing
    # One process computes the values, because other machines may round differently.
    if config.start_from_counts:
        assert summary is not None, "settings that start from counts have a summary"
        initialize_summary(
            summary,
            run_on_first(lambda: leading_directions(summary, data, newest_pairs, seed), processes),
        )
    if timing is not None:
        timing.measure_by(run_on_first(lambda: timings(data, all_pairs, seed), processes))


def _check_origin(
    data: PreparedData, model: UserBert, hide: Sequence[str], config: PretrainConfig
) -> None:
    """Raises `InputError` or `ModelError` if pretraining cannot start from `model`."""
    model.check_fits(data)
    missing = [name for name in ("hidden", "future") if getattr(config.objectives, name)]
    missing = [name for name in missing if name not in model.user_heads]
    if missing:
        raise InputError(
            f"the model to start from has no heads for objectives.{missing[0]}: it was pretrained "
            "without them. Leave the objective out, or pretrain from scratch."
        )
    if set(hide) - set(model.hidden):
        raise InputError(
            f"the model to start from has seen {', '.join(sorted(set(hide) - set(model.hidden)))}, "
            "which can no longer be hidden. Pretrain from scratch."
        )


def _load_finished_run(output: Path, record: Mapping[str, Any], processes: Processes) -> UserBert:
    """Returns the model of a complete run, and removes the work folder that a kill left behind.

    Raises `InputError` if the run had other settings than `record`.
    """
    model = UserBert.from_pretrained(output)
    refuse_other_settings(output, model.record, record)
    if processes.is_first:
        shutil.rmtree(work_folder(output), ignore_errors=True)
    return model


def _result_record(result: TrainingResult) -> dict[str, Any]:
    """Returns the entries of the model's record that describe a finished run."""
    losses = next(line for line in reversed(result.lines) if "loss" in line)
    validation = [line["validation"] for line in result.lines if "validation" in line]
    return {
        "loss": losses["loss"],
        "losses": losses["losses"],
        "validation": validation[-1] if validation else None,
        "users": result.users,
        "seconds": round(result.seconds, 3),
        "users_per_s": round(result.users / result.seconds, 1),
        "versions": {
            "userbert": version("userbert"),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
