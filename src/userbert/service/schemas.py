"""Shapes of request and response bodies, which /openapi.json describes.

In: JSON. Out: pydantic models with checked types. `data/use/live.py` checks the contents of events,
with the checks of `prepare`. The records of `explorer/` are also response bodies.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, WithJsonSchema

from userbert.explorer.colours import Colour
from userbert.explorer.traits import SharedValue, Trait

UserId = Annotated[str, StringConstraints(min_length=1, max_length=512)]
"""User id in a request."""
_SCALAR = {"anyOf": [{"type": kind} for kind in ("string", "number", "boolean", "null")]}
"""JSON schema of a value in a row."""
_ROW = {"type": "object", "additionalProperties": _SCALAR}
"""JSON schema of a row."""
RawRow = Annotated[dict[str, Any], WithJsonSchema(_ROW)]
"""Row of a log or of profiles: values by column name."""
Instant = Annotated[
    str,
    StringConstraints(max_length=40),
    Field(examples=["2024-07-01T00:00:00Z"]),
]
"""Date or time as text."""


class RequestBody(BaseModel):
    """Base of request bodies: unknown keys and values of another type are errors."""

    model_config = ConfigDict(extra="forbid", strict=True)


class User(RequestBody):
    """Raw events and profile of a user."""

    user_id: UserId
    events: dict[str, list[RawRow]] = Field(
        default_factory=dict, description="Raw events by source of the schema, in any order."
    )
    profile: list[RawRow] = Field(
        default_factory=list,
        description="One row of profile fields; any number of rows if the profile has a time.",
    )
    cutoff: Instant | None = Field(
        default=None, description="Cut-off of this user; overrides the cut-off of the call."
    )


class UsersBody(RequestBody):
    """Users to embed or score."""

    model: str | None = Field(
        default=None, description="Name of the model; required if the service has several."
    )
    users: list[User] = Field(min_length=1)
    cutoff: Instant | None = Field(
        default=None,
        description="All events must be earlier. A time without a zone is in the time zone of the "
        "schema. Default: now.",
    )


class LookalikeBody(RequestBody):
    """Seed users, and settings of their look-alike list."""

    model: str | None = Field(
        default=None, description="Name of the model; required if the service has several."
    )
    seeds: list[UserId] = Field(min_length=1, max_length=100_000)
    exclude: list[UserId] = Field(default_factory=list, max_length=1_000_000)
    k: int = Field(default=100, ge=1, le=100_000, description="Number of users in the list.")
    by: Literal["centroid", "nearest", "linear"] = Field(
        default="centroid", description="Method that scores users by their similarity to the seeds."
    )


class Embedding(BaseModel):
    """Vector of a user."""

    user_id: str
    embedding: list[float] | None = Field(
        description="null if the model reads no event of the user."
    )


class Embeddings(BaseModel):
    """Vectors, in the order of the request's users."""

    model: str
    users: list[Embedding]


class Score(BaseModel):
    """Score of a user; for multi-class tasks, the best classes and their scores."""

    user_id: str
    score: float | None = Field(
        default=None, description="null if the model reads no event of the user."
    )
    values: list[str] | None = None
    scores: list[float] | None = None


class Scores(BaseModel):
    """Scores, in the order of the request's users."""

    model: str
    task: str
    users: list[Score]


class Word(BaseModel):
    """A behavioral word."""

    segment: str
    number: int
    begins: str
    actions: int
    values: dict[str, list[tuple[str, int]]] = Field(
        description="Values by attribute, each with the number of actions that have the value."
    )


class Neighbour(BaseModel):
    """A user and the cosine similarity to another user."""

    user_id: str
    cosine: float


class ModelAnswer(BaseModel):
    """A user's vector, scores and nearest users by one model."""

    embedding: list[float]
    score: float | None = None
    values: list[str] | None = None
    scores: list[float] | None = None
    neighbours: list[Neighbour] | None = Field(description="null while not all users are embedded.")


class KnownUser(BaseModel):
    """User of the prepared data, with each model's answer."""

    user_id: str
    cutoff: int = Field(description="Microseconds since 1970; later events are not used.")
    profile: dict[str, str]
    words: list[Word]
    models: dict[str, ModelAnswer]


class LookalikeUser(BaseModel):
    """User in a look-alike list."""

    user_id: str
    score: float
    rank: int


class HeldOut(BaseModel):
    """Recall of a scoring method in five-fold cross-validation on the seeds."""

    way: str = Field(description="Scoring method.")
    seeds: int = Field(description="Number of held-out seeds.")
    found: float = Field(description="Number of held-out seeds that the test lists contain.")
    by_chance: float = Field(description="Expected number in random lists.")


class Lookalikes(BaseModel):
    """Users most like the seeds, best first."""

    model: str
    by: str
    seeds: int = Field(description="Number of seeds with a vector.")
    unknown: list[str] = Field(description="Seeds without a vector.")
    others: int = Field(description="Number of users to choose from.")
    held_out: list[HeldOut]
    users: list[LookalikeUser]


class TraitsBody(RequestBody):
    """Group of users to compare with the other users."""

    users: list[UserId] = Field(min_length=1, max_length=100_000)


class MapAnswer(BaseModel):
    """Two-dimensional map of users."""

    model: str
    method: str
    note: str = Field(description="Explanation of the layout.")
    is_final: bool = Field(description="false while a better layout is being computed.")
    users: int = Field(description="Number of users in the data.")
    shown: int = Field(description="Number of users on the map.")
    user_ids: list[str]
    x: list[float]
    y: list[float]
    colours: list[Colour]


class EmbeddingProgress(BaseModel):
    """Error until all users are embedded, with the progress so far."""

    detail: str
    done: int = Field(description="Number of users embedded so far.")
    of: int = Field(description="Number of users to embed.")


class ColourAnswer(BaseModel):
    """A colour's value for each user of a map, in the order of the map."""

    name: str
    title: str
    kind: Literal["category", "number"]
    values: list[str] | None = None
    codes: list[int] | None = Field(
        default=None, description="Index into `values` for each user; -1 if unknown."
    )
    numbers: list[float | None] | None = None


class TraitsAnswer(BaseModel):
    """Values that set a group of users apart from other users, strongest first."""

    users: int = Field(
        description="Number of compared users of the group; a random sample of a large group."
    )
    unknown: int = Field(description="Number of users of the group that are not in the data.")
    others: int = Field(description="Number of users that the group is compared with.")
    traits: list[Trait]


class SharedAnswer(BaseModel):
    """Values that two users have in common, rarest first."""

    traits: list[SharedValue]


class ExpectedValue(BaseModel):
    """A value that a model expects in a word."""

    value: str
    probability: float
    is_there: bool = Field(description="Whether the word has the value.")


class ExpectedAttribute(BaseModel):
    """Expected and actual values of an attribute in a word."""

    attribute: str
    expected: list[ExpectedValue]
    there: list[tuple[str, int]] = Field(
        description="Actual values, each with the number of actions that have the value."
    )


class ExpectedAnswer(BaseModel):
    """Values that a model expects in a word that it cannot read."""

    model: str
    segment: str
    number: int
    attributes: list[ExpectedAttribute]


class WordEffect(BaseModel):
    """Effect of a word: how much lower the score is without the word."""

    segment: str
    number: int
    effect: float
    attributes: dict[str, float]


class FieldEffect(BaseModel):
    """Effect of a profile field: how much lower the score is without the field."""

    name: str
    value: str
    effect: float


class ExplanationAnswer(BaseModel):
    """Explanation of a score, largest effects first."""

    model: str
    task: str
    value: str | None
    score: float
    unit: str
    words: list[WordEffect]
    fields: list[FieldEffect]
