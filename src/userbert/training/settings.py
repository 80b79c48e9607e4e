"""What a pretraining can be set to: presets, and changes to them.

In: a preset's name, and settings as typed. Out: a `PretrainConfig`, which `pretrain` follows.
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, ValidationError

from userbert.errors import InputError
from userbert.model.userbert import UserBertConfig
from userbert.schema.strict import Strict

SAMPLES = 2_048
"""Ids that a sampled softmax looks at, besides those of the batch."""


class Objectives(Strict):
    """How much each objective weighs; those of no weight are not computed."""

    words: float = Field(default=1.0, ge=0)
    """Masked words (paper §3.2)."""
    hidden: float = Field(default=0.0, ge=0)
    """From [CLS], the actions of the user's that were hidden."""
    future: float = Field(default=0.0, ge=0)
    """From [CLS], the actions after the cut-off."""


class PretrainConfig(Strict):
    """How a model is pretrained; the defaults are the preset `paper`."""

    model: UserBertConfig = UserBertConfig()
    objectives: Objectives = Objectives()
    least_hidden: float = Field(default=0.2, ge=0, le=1)
    most_hidden: float = Field(default=0.7, ge=0, le=1)
    """Between them lies the share of a user's actions that is hidden."""
    cutoffs: int = Field(default=1, ge=1)
    """Of each user: the newest, and others before it, drawn at random."""
    horizon_days: float = Field(default=28.0, gt=0)
    """How far the future goes that is predicted; at most a quarter of the log."""
    start_from_counts: bool = False
    """Whether the summary's tables start at the directions in which users' counts vary most."""
    keep_position: bool = False
    """Whether words that are masked keep their position and segment; the paper allows both."""
    steps: int = Field(default=400_000, ge=1)
    """Batches (paper §4.4)."""
    batch_size: int = Field(default=16, ge=1)
    """User sequences in a batch (paper §4.4)."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Of Adam (paper §4.4)."""
    decay: float = Field(default=0.0, ge=0, le=1)
    """The share of the steps, at the end, over which the learning rate falls to nothing."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """bf16 where it is the faster: on a GPU, and where our kernels can run."""
    softmax: Literal["exact", "sampled"] = "exact"
    """Over all ids, or, in attributes of many, over a sample."""
    samples: int = Field(default=SAMPLES, ge=1)
    """Ids in a sample."""
    held_out: float = Field(default=0.05, ge=0, lt=1)
    """The share of users whose loss is watched, and who are not learned from."""
    checkpoint_every: int = Field(default=1000, ge=1)
    """Steps between two checkpoints, and between two validations."""


DEFAULT = "default"
PRESETS: Mapping[str, PretrainConfig] = {
    DEFAULT: PretrainConfig(
        model=UserBertConfig(pool="all", word_sizes=True, summary=True, timing=True),
        objectives=Objectives(words=0, hidden=1, future=1),
        cutoffs=8,
        start_from_counts=True,
        steps=6_000,
        batch_size=128,
        learning_rate=1e-3,
        decay=0.5,
        softmax="sampled",
    ),
    "paper": PretrainConfig(),
}
"""What each difference brings: docs/decisions/0010-what-makes-vectors-worth-having.md."""


def configure(preset: str = DEFAULT, overrides: Sequence[str] = ()) -> PretrainConfig:
    """A preset with settings changed, as `steps=1000` or `model.layers=2`; raises `InputError`."""
    content = preset_named(preset).model_dump()
    for override in overrides:
        key, equals, text = override.partition("=")
        *path, last = key.strip().split(".")
        if not equals:
            raise InputError(f"--set {override}: expected key=value, such as steps=1000.")
        place: Any = content
        for part in path:
            place = place.get(part) if isinstance(place, dict) else None
        if not isinstance(place, dict) or last not in place:
            raise InputError(
                f"--set {override}: there is no setting {key!r}; {_hint(key, _keys(content))}"
            )
        if isinstance(place[last], dict):
            raise InputError(
                f"--set {override}: {key} is a group of settings; set one of them, such as "
                f"{key}.{next(iter(place[last]))}."
            )
        place[last] = _value(text)
    try:
        config = PretrainConfig.model_validate(content)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}, found {fault['input']!r}"
            for fault in error.errors()
        )
        raise InputError(f"--set: {faults}.") from error
    for is_wrong, told in (
        (
            config.model.hidden % config.model.heads > 0 or config.model.hidden % 2 > 0,
            f"model.hidden: expected an even multiple of model.heads, {config.model.heads}, found "
            f"{config.model.hidden}",
        ),
        (
            config.samples != SAMPLES and config.softmax == "exact",
            "samples: the exact softmax has none; add --set softmax=sampled",
        ),
        (
            not any(config.objectives.model_dump().values()),
            "objectives: all weigh nothing, so nothing is learned; give one of them a weight",
        ),
        (
            config.least_hidden > config.most_hidden,
            f"least_hidden: {config.least_hidden} is more than most_hidden, {config.most_hidden}",
        ),
        (
            config.objectives.future > 0 and config.cutoffs == 1,
            "objectives.future: of the newest cut-off no future is known; add --set cutoffs=8",
        ),
        (
            config.start_from_counts and not config.model.summary,
            "start_from_counts: there is no summary to start; add --set model.summary=true",
        ),
    ):
        if is_wrong:
            raise InputError(f"--set {told}.")
    return config


def preset_named(name: str) -> PretrainConfig:
    """A preset; raise `InputError` if there is none of that name."""
    if name not in PRESETS:
        raise InputError(f"there is no preset {name!r}; choose one of: {', '.join(PRESETS)}.")
    return PRESETS[name]


def _hint(key: str, known: Sequence[str]) -> str:
    """The settings that may be meant: those of that name in a group, or the nearest."""
    same = [name for name in known if name.split(".")[-1] == key]
    close = same or difflib.get_close_matches(key, known, n=1)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}."


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
