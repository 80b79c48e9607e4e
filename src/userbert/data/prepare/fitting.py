"""Vocabularies from events: values counted, then given their ids.

In: all rows of some users, coded; then what was counted of all. Out: `Vocabularies`, or those of
before with what is new. Used by every engine of preparation.
"""

from collections.abc import Mapping, Sequence

import polars as pl

from userbert.data.prepare.building import UserLogs
from userbert.data.prepare.dictionary import CodedLogs
from userbert.data.vocabulary import Bins, Categories, Vocabularies, Vocabulary, countable
from userbert.schema.attributes import Attribute, Category, Derived, Number
from userbert.schema.models import Schema

PROFILE, _SHARED = "profile", "shared"
Key = tuple[str, str]
"""Whose the values are, PROFILE, a segment, or segments that share them, and of what."""
Counts = Mapping[Key, pl.DataFrame]
"""`value`, `count` of rows, and `users`."""


def counted_values(schema: Schema) -> dict[Key, Attribute]:
    """What vocabularies are made for."""
    fields = {} if schema.profile is None else schema.profile.fields
    of_events = {key: schema.attributes[key[1]] for key in _actions(schema)}
    return {**of_events, **{(PROFILE, name): field for name, field in fields.items()}}


def _owner(schema: Schema, segment: str, name: str) -> str:
    return _SHARED if schema.attributes[name].share else segment


def _actions(schema: Schema) -> dict[Key, set[str]]:
    """The action types whose events are counted for a vocabulary.

    Segments that share one count together, so that an event or a user that both hold counts once.
    """
    counted: dict[Key, set[str]] = {}
    for segment, one in schema.segments.items():
        for name in one.attributes:
            counted.setdefault((_owner(schema, segment, name), name), set()).update(one.actions)
    return counted


def count_values(schema: Schema, coded: CodedLogs, logs: UserLogs) -> Counts:
    """Count the values of some users; their codes, where they have some.

    Values after the schema's `fit_before` are not counted.
    """
    events, profile = logs.events, logs.profile
    if schema.fit_before_us is not None:
        events = events.filter(pl.col("time") < schema.fit_before_us)
        profile = profile.filter(pl.col("time") < schema.fit_before_us)
    found, actions = {}, _actions(schema)
    for (owner, name), attribute in counted_values(schema).items():
        if owner == PROFILE:
            found[owner, name] = _count(profile, name, attribute)
            continue
        columns = [name, "user_id"] if _matter_users(attribute) else [name]
        is_counted = coded.events.have(events, actions[owner, name])
        chosen = events.select(columns).filter(is_counted)
        found[owner, name] = _count(chosen, name, attribute)
    return found


def added_up(counts: Sequence[Counts]) -> Counts:
    """What was counted of several ranges of users, as if they were one.

    A user's rows are in one range, so that numbers of users add up, too.
    """
    sums = (pl.col("count").sum(), pl.col("users").sum())
    return {
        key: pl.concat([each[key] for each in counts]).group_by("value").agg(*sums)
        for key in counts[0]
    }


def fit_vocabularies(schema: Schema, counts: Counts, coded: CodedLogs | None) -> Vocabularies:
    """Give ids to values that were counted (design, decision 4), as such or by their codes."""
    fitted: dict[Key, Vocabulary] = {}
    for (owner, name), attribute in counted_values(schema).items():
        found = counts[owner, name]
        if coded is not None and not isinstance(attribute, Number):
            codes = (coded.profile if owner == PROFILE else coded.events).codes[name]
            found = found.with_columns(codes.values.gather(found["value"]).alias("value"))
        fitted[owner, name] = _vocabulary(attribute, found)
    segments = {
        segment: {name: fitted[_owner(schema, segment, name), name] for name in one.attributes}
        for segment, one in schema.segments.items()
    }
    return Vocabularies(
        segments, {name: one for (owner, name), one in fitted.items() if owner == PROFILE}
    )


def _count(events: pl.DataFrame, name: str, attribute: Attribute) -> pl.DataFrame:
    """Rows by value, and users where their number matters, for it is slow to find."""
    value = events[name]
    if isinstance(attribute, Number):
        value = countable(value.cast(pl.Float32).fill_null(float("nan")))
    table, users = pl.DataFrame({"value": value}), pl.lit(1)
    if _matter_users(attribute):
        table, users = table.with_columns(events["user_id"]), pl.col("user_id").n_unique()
    return table.group_by("value").agg(
        pl.len().cast(pl.Int64).alias("count"), users.cast(pl.Int64).alias("users")
    )


def _matter_users(attribute: Attribute) -> bool:
    return isinstance(attribute, Category) and attribute.min_users > 1


def _vocabulary(attribute: Attribute, counts: pl.DataFrame) -> Vocabulary:
    if isinstance(attribute, Number):
        return Bins.fit(counts, attribute.bins)
    if isinstance(attribute, Derived):
        return Categories.fit(counts, max_values=1_000_000, min_users=1)
    assert isinstance(attribute, Category)
    return Categories.fit(counts, attribute.max_values, attribute.min_users)


def grown(schema: Schema, old: Vocabularies, new: Vocabularies) -> Vocabularies:
    """The vocabularies of before, whose ids stay, with the values of `new` behind them.

    At most `max_values` in all; the bins of numbers stay as they are.
    """
    fields = schema.profile.fields if schema.profile is not None else {}
    return Vocabularies(
        {
            segment: {
                name: _grown(schema.attributes[name], one, new.segments[segment][name])
                for name, one in attributes.items()
            }
            for segment, attributes in old.segments.items()
        },
        {name: _grown(fields[name], one, new.profile[name]) for name, one in old.profile.items()},
    )


def _grown(attribute: Attribute, old: Vocabulary, new: Vocabulary) -> Vocabulary:
    if not isinstance(old, Categories):
        return old
    assert isinstance(new, Categories)
    known = set(old.values)
    values = [*old.values, *(value for value in new.values if value not in known)]
    most = attribute.max_values if isinstance(attribute, Category) else len(values)
    return Categories(tuple(values[: max(most, len(known))]))
