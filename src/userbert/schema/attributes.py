"""Attributes of actions and fields of profiles: categories, numbers, and what every action has.

In: a mapping of `schema.yaml`. Out: a `Category`, `Number` or `Derived`, by the keys it has.
`schema/models.py` puts them into segments and profiles.
"""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from userbert.schema.strict import MANY, Strict

RESERVED_NAMES = (
    "user", "user_hash", "user_id", "time", "action_type", "word_start", "row", "invalid",
)  # fmt: skip
"""Columns of checked events and shards, which no attribute or profile field can be called."""


class Category(Strict):
    """A categorical attribute or profile field."""

    column: str
    max_values: int = Field(default=1_000_000, ge=1, le=MANY)
    """At most so many values are told apart; the rarer ones become *unknown*."""
    min_users: int = Field(default=1, ge=1)
    """A value of fewer users becomes *unknown*."""
    share: bool = False
    """One vocabulary and one table for both segments."""


class Number(Strict):
    """A number that is binned by quantiles of what `fit_before` lets through."""

    column: str
    bins: int = Field(ge=2, le=10_000)
    min: float | None = None
    """A value below is an error in its row."""
    share: bool = False


class Derived(Strict):
    """An attribute that every action has: its local hour, weekday or action type."""

    of: Literal["hour", "weekday", "action"]
    share: bool = False


def _kind(attribute: object) -> str:
    """Which model an attribute is meant to be, so that a fault is told of that one alone."""
    keys = attribute if isinstance(attribute, dict) else getattr(attribute, "__dict__", {})
    return "derived" if "of" in keys else "number" if {"bins", "min"} & set(keys) else "category"


def _field_kind(field: object) -> str:
    """Which model a profile field is meant to be: a user has no hour."""
    return "number" if _kind(field) == "number" else "category"


Attribute = Annotated[
    Annotated[Category, Tag("category")]
    | Annotated[Number, Tag("number")]
    | Annotated[Derived, Tag("derived")],
    Discriminator(_kind),
]
ProfileField = Annotated[
    Annotated[Category, Tag("category")] | Annotated[Number, Tag("number")],
    Discriminator(_field_kind),
]
