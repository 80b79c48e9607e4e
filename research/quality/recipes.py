"""Recipes of pretraining: the preset `default`, and variants with one setting changed.

In: a name. Out: a `PretrainConfig`. All train on the same number of users. `bench` runs them;
results are in docs/decisions/.
"""

from collections.abc import Mapping, Sequence

from userbert.training.settings import PretrainConfig, configure

RECIPES: Mapping[str, Sequence[str]] = {
    "default": (),
    "no-hidden": ("objectives.hidden=0",),
    "no-future": ("objectives.future=0",),
    "with-words": ("objectives.words=0.1",),
    "one-cutoff": ("cutoffs=1", "objectives.future=0"),
    "no-summary": ("model.summary=false", "start_from_counts=false"),
    "no-start": ("start_from_counts=false",),
    "no-timing": ("model.timing=false",),
    "no-word-sizes": ("model.word_sizes=false",),
    "no-decay": ("decay=0",),
    "paper": (
        "objectives.words=1", "objectives.hidden=0", "objectives.future=0", "cutoffs=1",
        "model.summary=false", "model.word_sizes=false", "model.timing=false", "model.pool=mean",
        "start_from_counts=false",
    ),
}  # fmt: skip
"""Changed settings of the preset `default`; the last recipe has the objectives of `paper`, on the
same number of users."""


def recipe(name: str) -> PretrainConfig:
    """Returns the settings of a recipe."""
    return configure("default", RECIPES[name])
