"""What a reproduction consists of: data, sizes, seeds, and parts that each take minutes.

Out: `Plan`, by data and thoroughness, and its parts in the order in which they run. A folder of
results holds parts of one plan alone.
"""

from dataclasses import dataclass, replace
from typing import Self

from pydantic import Field, model_validator

from userbert.experiments.reproduction.questions import SCALE
from userbert.experiments.reproduction.recipes import RECIPES
from userbert.experiments.reproduction.references import REFERENCES
from userbert.schema.strict import Strict


class Trial(Strict):
    """Rates of Adam; the paper's are both 1e-4 (§4.4)."""

    pretraining: float = Field(gt=0)
    finetuning: float = Field(gt=0)
    seeds: int = Field(ge=1)
    """Each with weights, an order of batches and test users of its own."""


class Variation(Strict):
    """One thing changed at the first trial's rates, to see whether it is the cause of a result."""

    @model_validator(mode="after")
    def _changes_one_thing(self) -> Self:
        if (self.batches is None) == (self.label_share == 1):
            raise ValueError("a variation changes either batches or label_share")
        return self

    models: tuple[str, ...]
    """Or references."""
    seeds: int = Field(ge=1)
    batches: int | None = Field(default=None, ge=1)
    """Of pretraining, in place of the plan's."""
    label_share: float = Field(default=1.0, gt=0, le=1)
    """Of the labels that a task may be learned from; epochs stay, so steps are fewer as well."""


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
    variations: tuple[Variation, ...] = ()

    @model_validator(mode="after")
    def _varies_what_there_is(self) -> Self:
        for varied in self.variations:
            for name in varied.models if varied.batches is not None else ():
                if name in REFERENCES or RECIPES[name].pretext is None:
                    raise ValueError(f"{name} is not pretrained, so its batches cannot vary")
            if varied.batches == self.batches:
                raise ValueError(f"{varied.batches} batches are the plan's, and no variation")
        return self


@dataclass(frozen=True)
class Part:
    """A model or a reference, of one seed: some minutes of work, and a JSON file."""

    model: str
    seed: int
    pretraining: float | None = None
    """The rate; None of what is not pretrained."""
    finetuning: float | None = None
    """The rate; None of references."""
    batches: int | None = None
    """Of pretraining; None: the plan's."""
    label_share: float = 1.0
    """Of the labels that a task may be learned from."""

    @property
    def is_varied(self) -> bool:
        """Whether one thing is not the plan's."""
        return self.batches is not None or self.label_share < 1

    @property
    def name(self) -> str:
        """Of its file."""
        share = [f"{self.label_share:g}-labels"] if self.label_share < 1 else []
        return "-".join([self.weights, *share])

    @property
    def weights(self) -> str:
        """Of what pretraining makes for it, which parts with fewer labels share."""
        rates = [f"{rate:g}" for rate in (self.pretraining, self.finetuning) if rate is not None]
        batches = [f"{self.batches}-batches"] if self.batches is not None else []
        return "-".join([self.model, *rates, str(self.seed), *batches])


def parts(plan: Plan) -> list[Part]:
    """The parts of a plan, a model after the other: an early end leaves whole comparisons."""
    found: dict[Part, None] = {}
    for trial in plan.trials:
        for name in (*plan.references, *plan.models):
            found |= {_part(name, seed, trial): None for seed in range(trial.seeds)}
    for varied in plan.variations:
        for name in varied.models:
            for seed in range(varied.seeds):
                part = _part(name, seed, plan.trials[0])
                share = varied.label_share
                found[replace(part, batches=varied.batches, label_share=share)] = None
    return list(found)


def _part(name: str, seed: int, trial: Trial) -> Part:
    if name in REFERENCES:
        return Part(name, seed)
    rate = None if RECIPES[name].pretext is None else trial.pretraining
    return Part(name, seed, rate, trial.finetuning)


_FAST = Trial(pretraining=3e-4, finetuning=3e-4, seeds=1)

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
"""A thirteenth of the paper's batches or less, so the rate of pretraining is some times the
paper's; on Complete Journey that of fine-tuning as well, as an epoch has five to fifteen batches,
and the paper's own rates are tried on one seed. See docs/decisions/0009."""
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
"""To see that all of it runs, and what comes out; its figures mean little."""
