"""Vocabularies from the events of a first pass: values counted, then given their ids.

In: partitions of coded events, profile rows. Out: `Vocabularies`, or those of before with what is
new. Used by `data/prepare.py`.
"""

import polars as pl

from userbert.data.codes import Codes
from userbert.data.intake import Intake
from userbert.data.vocabulary import Bins, Categories, Vocabularies, Vocabulary, countable
from userbert.progress import progress
from userbert.schema.models import Attribute, Category, Derived, Number, Schema
from userbert.workers import cores, threaded


def fit_vocabularies(schema: Schema, intake: Intake) -> Vocabularies:
    """Count values partition by partition, then give them ids (design, decision 4).

    Values after the schema's `fit_before` are not counted.
    """
    before = schema.fit_before_us
    owners = {
        (segment, name): "shared" if schema.attributes[name].share else segment
        for segment in schema.segments
        for name in schema.segments[segment].attributes
    }
    # Which action types a vocabulary counts. Segments that share one count together, so that an
    # event or a user that both hold counts once.
    counted: dict[tuple[str, str], set[str]] = {}
    for (segment, name), owner in owners.items():
        counted.setdefault((owner, name), set()).update(schema.segments[segment].actions)

    fields = schema.profile.fields if schema.profile is not None else {}

    def count(partition: int) -> dict[tuple[str, str], pl.DataFrame]:
        events, profile = intake.events_of(partition), intake.profile_of(partition)
        if before is not None:
            events = events.filter(pl.col("time") < before)
            profile = profile.filter(pl.col("time") < before)
        found = {("profile", name): _count(profile, name, field) for name, field in fields.items()}
        for (owner, name), actions in counted.items():
            attribute = schema.attributes[name]
            columns = [name, "user_id"] if _matter_users(attribute) else [name]
            chosen = events.select(columns).filter(intake.are(events, actions))
            found[owner, name] = _count(chosen, name, attribute)
        return found

    counts: list[dict[tuple[str, str], pl.DataFrame]] = []
    sizes = intake.events.sizes
    with progress("counting values", sum(sizes)) as advance:
        found_in = threaded(count, range(intake.partitions), cores())
        for size, found in zip(sizes, found_in, strict=True):
            counts.append(found)
            advance(size, "")
    fitted = {
        (owner, name): _vocabulary(
            schema.attributes[name],
            [found[owner, name] for found in counts],
            intake.events.codes.get(name),
        )
        for owner, name in counted
    }
    segments: dict[str, dict[str, Vocabulary]] = {segment: {} for segment in schema.segments}
    for (segment, name), owner in owners.items():
        segments[segment][name] = fitted[owner, name]
    profile = {
        name: _vocabulary(
            field,
            [found["profile", name] for found in counts],
            intake.profile.codes.get(name),
        )
        for name, field in fields.items()
    }
    return Vocabularies(segments, profile)


def _count(events: pl.DataFrame, name: str, attribute: Attribute) -> pl.DataFrame:
    """Rows by value, and users where their number matters, for it is slow to find."""
    value = events[name]
    if isinstance(attribute, Number):
        value = countable(value.cast(pl.Float32).fill_null(float("nan")))
    table, users = pl.DataFrame({"value": value}), pl.lit(1, pl.UInt32)
    if _matter_users(attribute):
        table, users = table.with_columns(events["user_id"]), pl.col("user_id").n_unique()
    return table.group_by("value").agg(pl.len().alias("count"), users.alias("users"))


def _matter_users(attribute: Attribute) -> bool:
    return isinstance(attribute, Category) and attribute.min_users > 1


def _vocabulary(
    attribute: Attribute, counts: list[pl.DataFrame], codes: Codes | None = None
) -> Vocabulary:
    """Give ids to values that were counted, as such or by their codes."""
    # A user's events are in one partition, so the numbers of users add up too.
    merged = pl.concat(counts).group_by("value").agg(pl.col("count").sum(), pl.col("users").sum())
    if codes is not None:
        merged = merged.with_columns(codes.values.gather(merged["value"]).alias("value"))
    if isinstance(attribute, Number):
        return Bins.fit(merged, attribute.bins)
    if isinstance(attribute, Derived):
        return Categories.fit(merged, max_values=1_000_000, min_users=1)
    assert isinstance(attribute, Category)
    return Categories.fit(merged, attribute.max_values, attribute.min_users)


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
