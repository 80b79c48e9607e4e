"""Vocabularies from logs: counts values, then gives them ids.

In: encoded rows of some users; then the counts of all. Out: new `Vocabularies`, or old ones with
new values appended. Used by every engine of preparation.
"""

from collections.abc import Mapping, Sequence

import polars as pl

from userbert.data.prepare.building import UserLogs
from userbert.data.prepare.dictionary import LogDictionaries
from userbert.data.vocabulary import Bins, Categories, Vocabularies, Vocabulary, countable
from userbert.schema.attributes import Attribute, Category, Derived, Number
from userbert.schema.models import Schema

PROFILE, _SHARED = "profile", "shared"
VocabularyKey = tuple[str, str]
"""Owner of a vocabulary, and name of its attribute or field.

The owner is PROFILE, a segment, or _SHARED for the segments that have a shared attribute.
"""
Counts = Mapping[VocabularyKey, pl.DataFrame]
"""Table per vocabulary with the columns `value`, `count` (number of rows) and `users` (number of
users; meaningless unless the attribute's `min_users` is above 1)."""
_MAX_DERIVED_VALUES = 1_000_000
"""Maximum size of a derived attribute's vocabulary: the default `max_values` of categories."""


def counted_attributes(schema: Schema) -> dict[VocabularyKey, Attribute]:
    """Returns the attribute or field behind each vocabulary."""
    fields = {} if schema.profile is None else schema.profile.fields
    attributes = {key: schema.attributes[key[1]] for key in _counted_actions(schema)}
    return {**attributes, **{(PROFILE, name): field for name, field in fields.items()}}


def _owner(schema: Schema, segment: str, name: str) -> str:
    return _SHARED if schema.attributes[name].share else segment


def _counted_actions(schema: Schema) -> dict[VocabularyKey, set[str]]:
    """Returns the action types whose events count for each vocabulary.

    Segments with a shared vocabulary count together, so an event in both counts once.
    """
    actions: dict[VocabularyKey, set[str]] = {}
    for name, segment in schema.segments.items():
        for attribute in segment.attributes:
            key = (_owner(schema, name, attribute), attribute)
            actions.setdefault(key, set()).update(segment.actions)
    return actions


def count_values(schema: Schema, dictionaries: LogDictionaries, logs: UserLogs) -> Counts:
    """Counts the values of some users; encoded text is counted by code.

    Only rows before the schema's `fit_before` count.
    """
    events, profile = logs.events, logs.profile
    if schema.fit_before_us is not None:
        events = events.filter(pl.col("time") < schema.fit_before_us)
        profile = profile.filter(pl.col("time") < schema.fit_before_us)
    counts, actions = {}, _counted_actions(schema)
    for (owner, name), attribute in counted_attributes(schema).items():
        if owner == PROFILE:
            counts[owner, name] = _count(profile, name, attribute)
            continue
        columns = [name, "user_id"] if _needs_users(attribute) else [name]
        is_counted = dictionaries.events.has_action(events, actions[owner, name])
        counted = events.select(columns).filter(is_counted)
        counts[owner, name] = _count(counted, name, attribute)
    return counts


def add_counts(counts: Sequence[Counts]) -> Counts:
    """Adds the counts of several ranges of users.

    All rows of a user are in one range, so the sum over ranges counts each user once.
    """
    sums = (pl.col("count").sum(), pl.col("users").sum())
    return {
        key: pl.concat([tables[key] for tables in counts]).group_by("value").agg(*sums)
        for key in counts[0]
    }


def fit_vocabularies(
    schema: Schema, counts: Counts, dictionaries: LogDictionaries | None
) -> Vocabularies:
    """Gives ids to counted values (design, decision 4).

    `dictionaries` decode values that were counted by code; None: text was not encoded.
    """
    fitted: dict[VocabularyKey, Vocabulary] = {}
    for (owner, name), attribute in counted_attributes(schema).items():
        table = counts[owner, name]
        if dictionaries is not None and not isinstance(attribute, Number):
            rows = dictionaries.profile if owner == PROFILE else dictionaries.events
            text = rows.dictionaries[name].values.gather(table["value"])
            table = table.with_columns(text.alias("value"))
        fitted[owner, name] = _vocabulary(attribute, table)
    segments = {
        name: {key: fitted[_owner(schema, name, key), key] for key in segment.attributes}
        for name, segment in schema.segments.items()
    }
    profile = {name: fitted[owner, name] for owner, name in fitted if owner == PROFILE}
    return Vocabularies(segments, profile)


def _count(events: pl.DataFrame, name: str, attribute: Attribute) -> pl.DataFrame:
    """Counts rows by value, and users by value if `min_users` needs them; else `users` is 1."""
    value = events[name]
    if isinstance(attribute, Number):
        value = countable(value.cast(pl.Float32).fill_null(float("nan")))
    table, users = pl.DataFrame({"value": value}), pl.lit(1)
    if _needs_users(attribute):
        table, users = table.with_columns(events["user_id"]), pl.col("user_id").n_unique()
    return table.group_by("value").agg(
        pl.len().cast(pl.Int64).alias("count"), users.cast(pl.Int64).alias("users")
    )


def _needs_users(attribute: Attribute) -> bool:
    """Returns whether `min_users` needs the number of users per value, which is slow to count."""
    return isinstance(attribute, Category) and attribute.min_users > 1


def _vocabulary(attribute: Attribute, counts: pl.DataFrame) -> Vocabulary:
    if isinstance(attribute, Number):
        return Bins.fit(counts, attribute.bins)
    if isinstance(attribute, Derived):
        return Categories.fit(counts, max_values=_MAX_DERIVED_VALUES, min_users=1)
    assert isinstance(attribute, Category)
    return Categories.fit(counts, attribute.max_values, attribute.min_users)


def grow_vocabularies(schema: Schema, old: Vocabularies, new: Vocabularies) -> Vocabularies:
    """Appends the values of `new` to the old vocabularies, whose ids do not change.

    The vocabulary of a category has at most `max_values` values, or its old size if that is
    larger. Derived attributes have no limit. Bins do not change.
    """
    fields = schema.profile.fields if schema.profile is not None else {}
    return Vocabularies(
        {
            segment: {
                name: _append_values(schema.attributes[name], known, new.segments[segment][name])
                for name, known in attributes.items()
            }
            for segment, attributes in old.segments.items()
        },
        {
            name: _append_values(fields[name], known, new.profile[name])
            for name, known in old.profile.items()
        },
    )


def _append_values(attribute: Attribute, old: Vocabulary, new: Vocabulary) -> Vocabulary:
    """Appends values of `new` that are not in `old`, in their order; returns old bins unchanged."""
    if not isinstance(old, Categories):
        return old
    assert isinstance(new, Categories)
    known = set(old.values)
    values = [*old.values, *(value for value in new.values if value not in known)]
    max_values = attribute.max_values if isinstance(attribute, Category) else len(values)
    return Categories(tuple(values[: max(max_values, len(known))]))
