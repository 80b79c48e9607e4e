"""Recipes of pretraining, each one change away from another, with an equal number of users seen.

In: a name. Out: a `PretrainConfig`. `bench` runs them; what was found is in docs/decisions/.
"""

from collections.abc import Mapping, Sequence

from userbert.training.settings import PretrainConfig, configure

BUDGET = ("steps=2500", "batch_size=128", "learning_rate=1e-3", "checkpoint_every=500")
"""For all: minutes, on a hundredth of the paper's users."""
_TOKEN = ("model.pool=cls", "objectives.words=0", "objectives.hidden=1")
_COUNTS = ("model.summary=true", "model.word_sizes=true")
_MOMENTS = ("cutoffs=8",)

RECIPES: Mapping[str, Sequence[str]] = {
    "paper": (),
    "hidden": _TOKEN,
    "hidden-sizes": (*_TOKEN, "model.word_sizes=true"),
    "hidden-summary": (*_TOKEN, "model.summary=true"),
    "hidden-counts": (*_TOKEN, *_COUNTS),
    "hidden-moments": (*_TOKEN, *_COUNTS, *_MOMENTS),
    "future": (*_TOKEN, *_COUNTS, *_MOMENTS, "objectives.hidden=0", "objectives.future=1"),
    "hidden-future": (*_TOKEN, *_COUNTS, *_MOMENTS, "objectives.future=1"),
    "all": (*_TOKEN, *_COUNTS, *_MOMENTS, "objectives.future=1", "objectives.words=0.1"),
}
"""Changes of the preset `paper`, besides those of the budget."""


def recipe(name: str) -> PretrainConfig:
    """The settings of a recipe."""
    return configure("paper", [*BUDGET, *RECIPES[name]])
