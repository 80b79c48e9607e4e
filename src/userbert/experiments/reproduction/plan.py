"""What a reproduction consists of: data, sizes, seeds, and parts that each take minutes.

Out: `Plan`, by data and thoroughness, and its parts in the order in which they run. A folder of
results holds parts of one plan alone.
"""

from dataclasses import dataclass

from pydantic import Field

from userbert.experiments.reproduction.questions import SCALE
from userbert.experiments.reproduction.recipes import RECIPES
from userbert.experiments.reproduction.references import REFERENCES
from userbert.schema.models import Strict


class Trial(Strict):
    """Rates of Adam; the paper's are both 1e-4 (§4.4)."""

    pretraining: float = Field(gt=0)
    finetuning: float = Field(gt=0)
    seeds: int = Field(ge=1)
    """Each with weights, an order of batches and test users of its own."""


class Plan(Strict):
    """How thoroughly the paper is reproduced on one data set."""

    data: str
    users: int | None = Field(default=None, ge=1)
    """Of the simulated ecosystem."""
    scale: float | None = Field(default=None, gt=0)
    """Of the numbers of labels; see `questions.scaled`. None: all there are."""
    batches: int = Field(ge=1)
    """Of pretraining, for every model alike."""
    batch_size: int = Field(default=16, ge=1)
    """Users in a batch of pretraining (paper §4.4)."""
    trials: tuple[Trial, ...]
    """Every model has each of them."""
    epochs: int = Field(default=10, ge=1)
    """Of fine-tuning (paper §4.5)."""
    resamples: int = Field(default=200, ge=1)
    models: tuple[str, ...] = tuple(RECIPES)
    references: tuple[str, ...] = tuple(REFERENCES)


@dataclass(frozen=True)
class Part:
    """A model or a reference, of one seed: some minutes of work, and a JSON file."""

    model: str
    seed: int
    pretraining: float | None = None
    """The rate; None of what is not pretrained."""
    finetuning: float | None = None
    """The rate; None of references."""

    @property
    def name(self) -> str:
        """Of its file."""
        rates = [f"{rate:g}" for rate in (self.pretraining, self.finetuning) if rate is not None]
        return "-".join([self.model, *rates, str(self.seed)])


def parts(plan: Plan) -> list[Part]:
    """The parts of a plan, a model after the other: an early end leaves whole comparisons."""
    found: dict[Part, None] = {}
    for trial in plan.trials:
        seeds = range(trial.seeds)
        for reference in plan.references:
            found |= {Part(reference, seed): None for seed in seeds}
        for model in plan.models:
            has_pretext = RECIPES[model].pretext is not None
            rate = trial.pretraining if has_pretext else None
            found |= {Part(model, seed, rate, trial.finetuning): None for seed in seeds}
    return list(found)


_FAST = Trial(pretraining=3e-4, finetuning=3e-4, seeds=1)

FULL = {
    "simulated": Plan(
        data="simulated",
        users=200_000,
        scale=SCALE,
        batches=30_000,
        trials=(Trial(pretraining=5e-4, finetuning=1e-4, seeds=3),),
    ),
    "complete-journey": Plan(
        data="complete-journey",
        batches=1_000,
        trials=(
            Trial(pretraining=3e-4, finetuning=3e-4, seeds=5),
            Trial(pretraining=1e-4, finetuning=1e-4, seeds=1),
        ),
    ),
}
"""A thirteenth of the paper's batches or less, so the rate of pretraining is some times the
paper's; on Complete Journey that of fine-tuning as well, as an epoch has five to fifteen batches,
and the paper's own rates are tried on one seed. See docs/decisions/0009."""
QUICK = {
    "simulated": Plan(
        data="simulated", users=5_000, scale=80.0, batches=150, epochs=2, trials=(_FAST,)
    ),
    "complete-journey": Plan(data="complete-journey", batches=100, epochs=2, trials=(_FAST,)),
}
"""To see that all of it runs, and what comes out; its figures mean little."""
