"""What the explorer's calls say and are answered, where it is no record of `explorer/`."""

from typing import Literal

from pydantic import BaseModel, Field

from userbert.serving.explorer.colours import Colour
from userbert.serving.explorer.traits import Shared, Trait
from userbert.serving.service.bodies import Body, UserId


class TraitsBody(Body):
    """Users who are held against the rest."""

    users: list[UserId] = Field(min_length=1, max_length=100_000)
    model: str | None = Field(
        default=None, description="On whose map they were chosen: traits do not depend on it."
    )


class MapAnswer(BaseModel):
    """Users in two directions."""

    model: str
    method: str
    note: str = Field(description="What the way they are laid out means.")
    is_final: bool = Field(description="Or a better layout is being made.")
    users: int = Field(description="Of the data.")
    shown: int
    user_ids: list[str]
    x: list[float]
    y: list[float]
    colours: list[Colour]


class NotYet(BaseModel):
    """How far the vectors are."""

    detail: str
    done: int
    of: int


class ColourAnswer(BaseModel):
    """What colours the users of a map, in their order."""

    name: str
    title: str
    kind: Literal["category", "number"]
    values: list[str] | None = None
    codes: list[int] | None = Field(default=None, description="-1: unknown.")
    numbers: list[float | None] | None = None


class TraitsAnswer(BaseModel):
    """What users have in common against the rest, strongest first."""

    users: int = Field(description="Who were looked at; of very many some at random.")
    unknown: int
    others: int
    traits: list[Trait]


class SharedAnswer(BaseModel):
    """Values that two users carry, rarest first."""

    traits: list[Shared]


class ExpectedValue(BaseModel):
    """A value that a model thinks likely in a word."""

    value: str
    probability: float
    is_there: bool


class ExpectedAttribute(BaseModel):
    """What a model expects of an attribute, and what is there."""

    attribute: str
    expected: list[ExpectedValue]
    there: list[tuple[str, int]] = Field(description="Values, and how many actions carry each.")


class ExpectedAnswer(BaseModel):
    """What a model expects in a word that is hidden from it."""

    model: str
    segment: str
    number: int
    attributes: list[ExpectedAttribute]


class MovedWord(BaseModel):
    """A word, and how far the output falls without it."""

    segment: str
    number: int
    effect: float
    attributes: dict[str, float]


class MovedField(BaseModel):
    """A profile field, and how far the output falls without it."""

    name: str
    value: str
    effect: float


class ExplanationAnswer(BaseModel):
    """What moved a score, most first."""

    model: str
    task: str
    value: str | None
    score: float
    unit: str
    words: list[MovedWord]
    fields: list[MovedField]
