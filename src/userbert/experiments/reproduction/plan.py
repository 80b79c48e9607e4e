"""What a reproduction consists of: data, sizes, seeds, and parts that each take minutes.

Out: `Plan`, by data and thoroughness, and its parts in the order in which they run. A folder of
results holds parts of one plan alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import Field

from userbert.experiments.reproduction.recipes import RECIPES
from userbert.experiments.reproduction.references import REFERENCES
from userbert.schema.models import Strict

PAPER_BATCHES = 400_000
"""Of pretraining (paper §4.4)."""


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
    learning_rates: tuple[float, ...] = (1e-4, 1e-3)
    """Of Adam, in pretraining and in fine-tuning alike: the paper's (§4.4), and the trials that
    every model has besides, as its budget is a small part of the paper's."""
    epochs: int = Field(default=10, ge=1)
    """Of fine-tuning (paper §4.5)."""
    seeds: int = Field(ge=1)
    """Each with weights, an order of batches and test users of its own."""
    resamples: int = Field(default=200, ge=1)
    models: tuple[str, ...] = tuple(RECIPES)
    references: tuple[str, ...] = tuple(REFERENCES)


@dataclass(frozen=True)
class Part:
    """A model or a reference, of one seed: some minutes of work, and a JSON file."""

    model: str
    seed: int
    learning_rate: float | None
    """None of references."""

    @property
    def name(self) -> str:
        """Of its file."""
        rate = "" if self.learning_rate is None else f"-{self.learning_rate:g}"
        return f"{self.model}{rate}-{self.seed}"


def parts(plan: Plan) -> Iterator[Part]:
    """The parts of a plan, a seed after the other: an early end leaves whole comparisons."""
    for seed in range(plan.seeds):
        for reference in plan.references:
            yield Part(reference, seed, None)
        for rate in plan.learning_rates:
            for model in plan.models:
                yield Part(model, seed, rate)


FULL = {
    "complete-journey": Plan(data="complete-journey", batches=4_000, seeds=5),
    "simulated": Plan(data="simulated", users=200_000, scale=100.0, batches=10_000, seeds=3),
}
QUICK = {
    "complete-journey": Plan(
        data="complete-journey", batches=200, epochs=2, seeds=1, learning_rates=(1e-3,)
    ),
    "simulated": Plan(
        data="simulated",
        users=10_000,
        scale=20.0,
        batches=300,
        epochs=2,
        seeds=1,
        learning_rates=(1e-3,),
    ),
}
"""To see that all of it runs, and what comes out; its figures mean little."""
