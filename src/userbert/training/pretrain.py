"""Pretraining: prepared data → a model folder (paper §3.2, §4.4).

In: prepared data, a preset or a configuration, and the cut-offs that bound what is learned. Out: a
`UserBert`, and its folder, whole or not at all. A folder beside the output keeps checkpoints until
then.
"""

import difflib
import hashlib
import json
import platform
import shutil
from collections.abc import Mapping, Sequence
from copy import deepcopy
from datetime import date, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import polars as pl
import torch
from pydantic import Field, ValidationError

from userbert.data.loading import SequenceBatches, sequence_lengths
from userbert.data.pairs import Pairs, pairs_at, pairs_of
from userbert.data.store import PreparedData
from userbert.errors import InputError
from userbert.folders import publishing_folder, read_json, write_json
from userbert.model.userbert import Precision, UserBert, UserBertConfig
from userbert.schema.models import Strict
from userbert.training.loop import METRICS, LoopConfig, Trained, train
from userbert.training.objectives import Objective, masked_words
from userbert.training.validation import hold_out, mean_losses, validation_batches

_RUN = "run.json"


class PretrainConfig(Strict):
    """How a model is pretrained; the defaults are the preset `paper`."""

    model: UserBertConfig = UserBertConfig()
    objective: Literal["masked_words"] = "masked_words"
    steps: int = Field(default=400_000, ge=1)
    """Batches (paper §4.4)."""
    batch_size: int = Field(default=16, ge=1)
    """User sequences in a batch (paper §4.4)."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Of Adam (paper §4.4)."""
    precision: Precision = "float32"
    """At batches of 16, bf16 spends more on conversions than its products save."""
    held_out: float = Field(default=0.05, ge=0, lt=1)
    """The share of users whose loss is watched, and who are not learned from."""
    checkpoint_every: int = Field(default=1000, ge=1)
    """Steps between two checkpoints, and between two validations."""


PRESETS: Mapping[str, PretrainConfig] = {"paper": PretrainConfig()}
_OBJECTIVES: Mapping[str, Objective] = {"masked_words": masked_words}


def pretrain(
    data: PreparedData,
    output: str | Path | None = None,
    *,
    preset: str = "paper",
    config: PretrainConfig | None = None,
    steps: int | None = None,
    seed: int = 0,
    before: str | date | datetime | None = None,
    at: Any | None = None,
    hide: Sequence[str] = (),
    from_model: UserBert | None = None,
    resume: bool = False,
) -> UserBert:
    """Pretrain a UserBERT, and save it to `output` if given.

    What is learned lies before one cut-off: `before`, else the schema's `fit_before`, else just
    after the last event; or before each user's own, in `at`, a frame of `user_id` and `cutoff`.
    `hide` names profile fields that the model must not see. `config` replaces the preset's (see
    `configure`), `steps` its number of batches. `from_model` goes on from another model's weights,
    in its size. `resume` goes on with an interrupted run of the same settings, and starts one if
    there is none.

    Raises `InputError` if there is nothing to learn from, or `output` or an interrupted run is in
    the way; `ModelError` if the data have other ids than `from_model`.
    """
    config = config or _preset(preset)
    if steps is not None:
        config = config.model_copy(update={"steps": steps})
    output = None if output is None else Path(output)
    if output is not None and output.exists():
        raise InputError(f"{output} exists already. Choose another -o, or remove it first.")
    asked = _pairs(data, before, at)
    # Without a word there is nothing to predict.
    some = sequence_lengths(data, asked.rows, asked.cutoffs) > 0
    pairs = Pairs(asked.rows[some], asked.cutoffs[some])
    learned, held_out = hold_out(data, pairs, config.held_out)
    if not len(learned):
        raise InputError(
            f"{data.path} has no user with a word before the cut-off. Choose a later one."
        )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = _new_model(data, config, hide) if from_model is None else deepcopy(from_model)
    if from_model is not None:
        _check_origin(data, model, hide)
    earlier = dict(model.record)
    record = {
        "preset": preset,
        "config": {**config.model_dump(mode="json"), "model": model.config.model_dump(mode="json")},
        "seed": seed,
        # The weights remember what an earlier training saw.
        "before": max(int(asked.cutoffs.max()), earlier.get("before", 0)),
        "at": None if at is None else fingerprint(data, asked),
        "hidden": list(model.hidden),
        "pairs": len(learned),
        "held_out_pairs": len(held_out),
        "data": data.checksum,
        "from": earlier or None,
    }
    work = None if output is None else output.with_name(f".{output.name}.training")
    if work is not None:
        _open_work_folder(work, record, resume)
    objective = _OBJECTIVES[config.objective]
    validation = validation_batches(data, held_out, model.hidden)
    trained = train(
        model,
        objective,
        SequenceBatches(
            data,
            learned.rows,
            learned.cutoffs,
            batch_size=config.batch_size,
            seed=seed,
            hidden=model.hidden,
        ),
        LoopConfig(
            steps=config.steps,
            learning_rate=config.learning_rate,
            seed=seed,
            precision=config.precision,
            checkpoint_every=config.checkpoint_every,
        ),
        folder=work,
        validate=(lambda: mean_losses(model, objective, validation)) if validation else None,
        description="pretraining",
    )
    model.record = {**record, **_outcome(trained)}
    model.eval()
    if output is not None and work is not None:
        with publishing_folder(output) as temporary:
            shutil.copy(work / METRICS, temporary / METRICS)
            model.write(temporary)
        shutil.rmtree(work)
    return model


def configure(preset: str = "paper", overrides: Sequence[str] = ()) -> PretrainConfig:
    """A preset with settings changed, as `steps=1000` or `model.layers=2`; raises `InputError`."""
    content = _preset(preset).model_dump()
    for override in overrides:
        key, equals, text = override.partition("=")
        *path, last = key.strip().split(".")
        if not equals:
            raise InputError(f"--set {override}: expected key=value, such as steps=1000.")
        place: Any = content
        for part in path:
            place = place.get(part) if isinstance(place, dict) else None
        if not isinstance(place, dict) or last not in place:
            close = difflib.get_close_matches(key, _keys(content), n=1)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(_keys(content))}."
            raise InputError(f"--set {override}: there is no setting {key!r}; {hint}")
        place[last] = _value(text)
    try:
        return PretrainConfig.model_validate(content)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}, found {fault['input']!r}"
            for fault in error.errors()
        )
        raise InputError(f"--set: {faults}.") from error


def fingerprint(data: PreparedData, pairs: Pairs) -> str:
    """SHA-256 of a set of (user, cut-off) pairs, whatever their order."""
    users = data.user_ids.take(pl.Series(pairs.rows).to_arrow()).to_pylist()
    lines = sorted(zip(users, pairs.cutoffs.tolist(), strict=True))
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()


def _preset(name: str) -> PretrainConfig:
    if name not in PRESETS:
        raise InputError(f"there is no preset {name!r}; choose one of: {', '.join(PRESETS)}.")
    return PRESETS[name]


def _keys(content: Mapping[str, Any]) -> list[str]:
    return [
        key
        for name, value in content.items()
        for key in ([f"{name}.{k}" for k in _keys(value)] if isinstance(value, dict) else [name])
    ]


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text.strip()


def _pairs(data: PreparedData, before: str | date | datetime | None, at: Any | None) -> Pairs:
    if at is not None:
        if before is not None:
            raise InputError("--at names each user's cut-off; leave --before out.")
        return pairs_of(pl.DataFrame(at), data, "at")
    if before is not None:
        return pairs_at(data, [data.schema.instant(before)])
    return pairs_at(data, [data.schema.fit_before_us or data.default_cutoff])


def _new_model(data: PreparedData, config: PretrainConfig, hide: Sequence[str]) -> UserBert:
    unknown = sorted(set(hide) - set(data.vocabularies.profile))
    if unknown:
        raise InputError(
            f"{data.path} has no profile field {unknown[0]!r} to hide; "
            f"its fields are: {', '.join(data.vocabularies.profile) or 'none'}."
        )
    return UserBert(
        config.model,
        data.input_shape(hide),
        schema=data.schema,
        vocabularies=data.vocabularies,
        hidden=hide,
    )


def _check_origin(data: PreparedData, model: UserBert, hide: Sequence[str]) -> None:
    model.check_fits(data)
    if set(hide) - set(model.hidden):
        raise InputError(
            f"the model to go on from has seen {', '.join(sorted(set(hide) - set(model.hidden)))}: "
            "it cannot be hidden any more. Pretrain from the start."
        )


def _open_work_folder(work: Path, record: Mapping[str, Any], resume: bool) -> None:
    """Make the folder of checkpoints, or check that the one there is of the same settings."""
    if not work.exists():
        try:
            work.mkdir(parents=True)
        except OSError as error:
            raise InputError(
                f"cannot write {work}: {error.strerror}. Choose another -o."
            ) from error
        write_json(work / _RUN, record)
        return
    if not resume:
        raise InputError(
            f"{work} holds an interrupted run. Go on with it by --resume, or remove it."
        )
    begun = read_json(work / _RUN)
    changed = [key for key, value in record.items() if begun.get(key) != value]
    if changed:
        raise InputError(
            f"{work} holds a run with other settings ({', '.join(changed)} differ). "
            "Resume with the settings it was begun with, or remove it."
        )


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
