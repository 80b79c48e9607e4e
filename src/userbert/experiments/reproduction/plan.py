"""Plan of a reproduction: data, sizes, seeds, and the jobs that run.

Out: a `Plan` by data set and thoroughness, and its jobs in the order in which they run. A folder
of results holds the jobs of one plan per data set.
"""

from dataclasses import dataclass, replace
from typing import Self

from pydantic import Field, model_validator

from userbert.experiments.reproduction.questions import SCALE
from userbert.experiments.reproduction.recipes import RECIPES
from userbert.experiments.reproduction.references import REFERENCES
from userbert.schema.strict import Strict


class Trial(Strict):
    """Learning rates and number of seeds; both rates of the paper are 1e-4 (§4.4)."""

    pretraining: float = Field(gt=0)
    """Learning rate of pretraining."""
    finetuning: float = Field(gt=0)
    """Learning rate of fine-tuning."""
    seeds: int = Field(ge=1)
    """Number of seeds. Each seed has its own weights, order of batches and test users."""


class Variation(Strict):
    """One changed setting, at the rates of the first trial, to test its effect on results."""

    @model_validator(mode="after")
    def _check_one_change(self) -> Self:
        if (self.batches is None) == (self.label_share == 1):
            raise ValueError("a variation must change either batches or label_share, not both")
        return self

    models: tuple[str, ...]
    """Names of models and references."""
    seeds: int = Field(ge=1)
    """Number of seeds."""
    batches: int | None = Field(default=None, ge=1)
    """Number of pretraining batches; None: as in the plan."""
    label_share: float = Field(default=1.0, gt=0, le=1)
    """Share of the training labels. The number of epochs is unchanged, so there are fewer steps."""


class Plan(Strict):
    """How the paper is reproduced on one data set."""

    data: str
    """Name of the data set: `simulated` or `complete-journey`."""
    users: int | None = Field(default=None, ge=1)
    """Number of simulated users; None for other data."""
    scale: float | None = Field(default=None, gt=0)
    """Scale of the number of labels; see `questions.scaled`. None: all labels."""
    batches: int = Field(ge=1)
    """Number of pretraining batches of every model."""
    batch_size: int = Field(default=16, ge=1)
    """Users in a pretraining batch (paper §4.4)."""
    trials: tuple[Trial, ...]
    """Learning rates to try; every model runs each trial."""
    epochs: int = Field(default=10, ge=1)
    """Number of fine-tuning epochs (paper §4.4)."""
    resamples: int = Field(default=200, ge=1)
    """Number of resamples of the test users, for intervals."""
    models: tuple[str, ...] = tuple(RECIPES)
    references: tuple[str, ...] = tuple(REFERENCES)
    variations: tuple[Variation, ...] = ()

    @model_validator(mode="after")
    def _check_variations(self) -> Self:
        for variation in self.variations:
            for name in variation.models if variation.batches is not None else ():
                if name in REFERENCES or RECIPES[name].pretext is None:
                    raise ValueError(f"{name} is not pretrained, so its batches cannot vary")
            if variation.batches == self.batches:
                raise ValueError(f"the plan already has {variation.batches} batches")
        return self


@dataclass(frozen=True)
class Job:
    """A model or a reference with one seed: some minutes of work, and a JSON file of results."""

    model: str
    seed: int
    pretraining: float | None = None
    """Learning rate of pretraining; None for models that are not pretrained."""
    finetuning: float | None = None
    """Learning rate of fine-tuning; None for references."""
    batches: int | None = None
    """Number of pretraining batches; None: as in the plan."""
    label_share: float = 1.0
    """Share of the training labels."""

    @property
    def is_varied(self) -> bool:
        """Whether a setting differs from the plan's."""
        return self.batches is not None or self.label_share < 1

    @property
    def name(self) -> str:
        """Name of the file of results, without suffix."""
        share = [f"{self.label_share:g}-labels"] if self.label_share < 1 else []
        return "-".join([self.weights, *share])

    @property
    def weights(self) -> str:
        """Name of the pretrained weights; jobs that differ only in `label_share` share them."""
        rates = [f"{rate:g}" for rate in (self.pretraining, self.finetuning) if rate is not None]
        batches = [f"{self.batches}-batches"] if self.batches is not None else []
        return "-".join([self.model, *rates, str(self.seed), *batches])


def jobs(plan: Plan) -> list[Job]:
    """Returns the jobs of a plan, model by model: an early end leaves models with all seeds."""
    unique_jobs: dict[Job, None] = {}
    for trial in plan.trials:
        for name in (*plan.references, *plan.models):
            unique_jobs |= {_job(name, seed, trial): None for seed in range(trial.seeds)}
    for variation in plan.variations:
        for name in variation.models:
            for seed in range(variation.seeds):
                job = _job(name, seed, plan.trials[0])
                share = variation.label_share
                unique_jobs[replace(job, batches=variation.batches, label_share=share)] = None
    return list(unique_jobs)


def _job(name: str, seed: int, trial: Trial) -> Job:
    """Returns the job of a model or reference, without rates that it does not use."""
    if name in REFERENCES:
        return Job(name, seed)
    rate = None if RECIPES[name].pretext is None else trial.pretraining
    return Job(name, seed, rate, trial.finetuning)


_FAST = Trial(pretraining=3e-4, finetuning=3e-4, seeds=1)
"""The trial of the quick plans."""

FULL = {
    "simulated": Plan(
        data="simulated",
        users=200_000,
        scale=SCALE,
        batches=30_000,
        trials=(Trial(pretraining=5e-4, finetuning=1e-4, seeds=3),),
        variations=(
            Variation(
                models=("userbert", "userbert-from-scratch", "wide-deep-mtl", "aggregates-gbm"),
                seeds=2,
                label_share=0.25,
            ),
            Variation(models=("userbert", "wide-deep-mtl"), seeds=2, batches=7_500),
        ),
    ),
    "complete-journey": Plan(
        data="complete-journey",
        batches=1_000,
        trials=(
            Trial(pretraining=3e-4, finetuning=3e-4, seeds=5),
            Trial(pretraining=1e-4, finetuning=1e-4, seeds=1),
        ),
        variations=(Variation(models=("userbert", "wide-deep-mtl"), seeds=3, batches=10_000),),
    ),
}
"""Full plans by data set. They have at most a thirteenth of the paper's pretraining batches, so
the learning rates of pretraining are higher than the paper's. On Complete Journey an epoch of
fine-tuning has only five to fifteen batches, so the learning rate of fine-tuning is also higher;
the paper's rates run with one seed. See docs/decisions/0009."""
QUICK = {
    "simulated": Plan(
        data="simulated",
        users=5_000,
        scale=80.0,
        batches=150,
        epochs=2,
        trials=(_FAST,),
        variations=(
            Variation(models=("userbert", "aggregates-gbm"), seeds=1, label_share=0.25),
            Variation(models=("userbert",), seeds=1, batches=300),
        ),
    ),
    "complete-journey": Plan(data="complete-journey", batches=100, epochs=2, trials=(_FAST,)),
}
"""Small plans by data set, to test that all steps run; their results mean little."""
