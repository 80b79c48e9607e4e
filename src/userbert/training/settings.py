"""Pretraining settings: the configuration, its presets, and changes to a preset.

In: the name of a preset, and settings as text. Out: a `PretrainConfig` for `pretrain`.
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
"""Approximate number of ids that the sampled softmax draws, in addition to the batch's ids."""


class Objectives(Strict):
    """Weight of each objective's loss; objectives of weight 0 are not computed."""

    words: float = Field(default=1.0, ge=0)
    """Predict the values of masked words (paper §3.2)."""
    hidden: float = Field(default=0.0, ge=0)
    """Predict the values of hidden actions from [CLS]."""
    future: float = Field(default=0.0, ge=0)
    """Predict from [CLS] the values, the presence and the number of actions after the cut-off."""


class PretrainConfig(Strict):
    """Configuration of pretraining; the defaults are the preset `paper`."""

    model: UserBertConfig = UserBertConfig()
    """Size and optional parts of the network."""
    objectives: Objectives = Objectives()
    """Weights of the objectives."""
    least_hidden: float = Field(default=0.2, ge=0, le=1)
    """Lower bound of a user's hidden share s, which hides s - s² / 4 of the actions on average."""
    most_hidden: float = Field(default=0.7, ge=0, le=1)
    """Upper bound of a user's hidden share, which is drawn uniformly between the bounds."""
    cutoffs: int = Field(default=1, ge=1)
    """Number of cut-offs per user: the newest cut-off, and earlier cut-offs drawn at random."""
    horizon_days: float = Field(default=28.0, gt=0)
    """Length of the predicted future, in days; at most a quarter of the log."""
    start_from_counts: bool = False
    """Whether to initialize the summary's tables from a truncated SVD of the users' counts."""
    keep_position: bool = False
    """Whether masked words keep their position and segment; the paper allows both."""
    steps: int = Field(default=400_000, ge=1)
    """Number of batches (paper §4.4)."""
    batch_size: int = Field(default=16, ge=1)
    """User sequences in a batch (paper §4.4)."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Adam's learning rate (paper §4.4)."""
    decay: float = Field(default=0.0, ge=0, le=1)
    """Share of the steps, at the end, over which the learning rate falls in stages, to 1/21."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """Precision of matrix products; `auto`: bf16 on GPUs and with the C kernels, else float32."""
    softmax: Literal["exact", "sampled"] = "exact"
    """Softmax over all ids, or over a sample for attributes with many ids."""
    samples: int = Field(default=SAMPLES, ge=1)
    """Approximate number of ids that the sampled softmax draws."""
    held_out: float = Field(default=0.05, ge=0, lt=1)
    """Share of users held out for validation; the model does not learn from them."""
    checkpoint_every: int = Field(default=1000, ge=1)
    """Steps between checkpoints, and between validations."""


DEFAULT = "default"
"""Name of the preset that is used if no preset is named."""
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
"""Presets by name. docs/decisions/0010-what-makes-vectors-worth-having.md measures each setting of
`default`."""


def configure(preset: str = DEFAULT, overrides: Sequence[str] = ()) -> PretrainConfig:
    """Returns a preset changed by settings such as `steps=1000` or `model.layers=2`.

    Raises `InputError` if a setting does not exist, a value is not valid, or settings contradict
    each other.
    """
    content = preset_named(preset).model_dump()
    for override in overrides:
        key, equals, text = override.partition("=")
        *path, last = key.strip().split(".")
        if not equals:
            raise InputError(f"setting {override!r}: expected key=value, such as steps=1000.")
        group: Any = content
        for name in path:
            group = group.get(name) if isinstance(group, dict) else None
        if not isinstance(group, dict) or last not in group:
            raise InputError(
                f"setting {override!r}: there is no setting {key!r}; "
                f"{_suggest(key, _names(content))}"
            )
        if isinstance(group[last], dict):
            raise InputError(
                f"setting {override!r}: {key} is a group of settings. Set a setting in the "
                f"group, such as {key}.{next(iter(group[last]))}."
            )
        group[last] = _parse_value(text)
    try:
        config = PretrainConfig.model_validate(content)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}, found {fault['input']!r}"
            for fault in error.errors()
        )
        raise InputError(f"settings: {faults}.") from error
    for is_wrong, message in (
        (
            config.model.hidden % config.model.heads > 0 or config.model.hidden % 2 > 0,
            "model.hidden: expected an even number divisible by model.heads "
            f"({config.model.heads}), found {config.model.hidden}",
        ),
        (
            config.samples != SAMPLES and config.softmax == "exact",
            "samples: the exact softmax draws no samples; also set softmax=sampled",
        ),
        (
            not any(config.objectives.model_dump().values()),
            "objectives: all weights are 0, so nothing is learned; set at least one weight above 0",
        ),
        (
            config.least_hidden > config.most_hidden,
            f"least_hidden: {config.least_hidden} is more than most_hidden, {config.most_hidden}",
        ),
        (
            config.objectives.future > 0 and config.cutoffs == 1,
            "objectives.future: the newest cut-off has no known future; also set cutoffs=8",
        ),
        (
            config.start_from_counts and not config.model.summary,
            "start_from_counts: the model has no summary; also set model.summary=true",
        ),
    ):
        if is_wrong:
            raise InputError(f"setting {message}.")
    return config


def preset_named(name: str) -> PretrainConfig:
    """Returns a preset by name. Raises `InputError` if there is no such preset."""
    if name not in PRESETS:
        raise InputError(f"there is no preset {name!r}; choose one of: {', '.join(PRESETS)}.")
    return PRESETS[name]


def _suggest(key: str, known: Sequence[str]) -> str:
    """Suggests the settings of this name in groups, else the most similar setting, else all."""
    in_groups = [name for name in known if name.split(".")[-1] == key]
    close = in_groups or difflib.get_close_matches(key, known, n=1)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}."


def _names(content: Mapping[str, Any]) -> list[str]:
    """Returns the dotted names of all settings, such as `model.layers`."""
    return [
        key
        for name, value in content.items()
        for key in ([f"{name}.{k}" for k in _names(value)] if isinstance(value, dict) else [name])
    ]


def _parse_value(text: str) -> Any:
    """Parses a value as JSON, or else as plain text."""
    try:
        return json.loads(text)
    except ValueError:
        return text.strip()
