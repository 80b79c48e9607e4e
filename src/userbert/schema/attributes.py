"""Models of attributes and profile fields: categories, numbers and derived attributes.

In: a mapping from `schema.yaml`. Out: a `Category`, `Number` or `Derived`, chosen by its keys.
`schema/models.py` uses them in segments and profiles.
"""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from userbert.schema.strict import MAX_COUNT, Strict

RESERVED_NAMES = (
    "user", "user_hash", "user_id", "time", "action_type", "word_start", "row", "invalid",
)  # fmt: skip
"""Column names of checked rows and of shards, which attributes and profile fields cannot have."""


class Category(Strict):
    """A categorical attribute or profile field."""

    column: str
    """Column of the logs, or of the profile table."""
    max_values: int = Field(default=1_000_000, ge=1, le=MAX_COUNT)
    """Maximum number of values in the vocabulary; rarer values become *unknown*."""
    min_users: int = Field(default=1, ge=1)
    """Minimum number of users of a value; values of fewer users become *unknown*."""
    share: bool = False
    """Whether both segments share the vocabulary and the embedding table; profiles ignore it."""


class Number(Strict):
    """A numeric attribute or profile field, binned by quantiles of values before `fit_before`."""

    column: str
    """Column of the logs, or of the profile table."""
    bins: int = Field(ge=2, le=10_000)
    """Number of bins; frequent values may leave fewer."""
    min: float | None = None
    """Smallest valid number; a row with a smaller number is invalid."""
    share: bool = False
    """As in `Category`."""


class Derived(Strict):
    """An attribute computed for each action: its local hour, local weekday or action type."""

    of: Literal["hour", "weekday", "action"]
    share: bool = False
    """As in `Category`."""


def _attribute_tag(attribute: object) -> str:
    """Returns the tag of the model that the keys suggest; errors are about this model."""
    keys = attribute if isinstance(attribute, dict) else getattr(attribute, "__dict__", {})
    return "derived" if "of" in keys else "number" if {"bins", "min"} & set(keys) else "category"


def _field_tag(field: object) -> str:
    """Returns the tag of a profile field, which is never derived: a user has no hour."""
    return "number" if _attribute_tag(field) == "number" else "category"


Attribute = Annotated[
    Annotated[Category, Tag("category")]
    | Annotated[Number, Tag("number")]
    | Annotated[Derived, Tag("derived")],
    Discriminator(_attribute_tag),
]
ProfileField = Annotated[
    Annotated[Category, Tag("category")] | Annotated[Number, Tag("number")],
    Discriminator(_field_tag),
]
