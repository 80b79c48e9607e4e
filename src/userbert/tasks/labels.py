"""Labels of a task: read from a file or frame, or made from events, profiles or responders.

In: prepared data and (user, cut-off) pairs, or the user's own file. Out: `Labels`: the targets of
the pairs, the question, and the profile fields to hide because they leak the label. Used by
`finetune` and `evaluate`; the command line's `label` writes label files.
"""

import difflib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from userbert.data.prepare.words import DAY_US
from userbert.data.ragged import Int64, list_numbers
from userbert.data.store import PreparedData
from userbert.data.use.pairs import (
    Pairs,
    first_events,
    pairs_in,
    read_table,
    require_column,
    user_id_column,
)
from userbert.data.use.sequences import actions_between, profile_ids
from userbert.data.vocabulary import FIRST_VALUE, UNKNOWN, Categories
from userbert.errors import InputError, LabelError
from userbert.schema.strict import parse_duration
from userbert.tasks.label_files import (
    Kind,
    LabelsMetadata,
    changed_error,
    check_labels,
    checksum_of,
    classes_of,
    kind_of,
    parse_numbers,
    read_metadata,
    targets_of,
    write_labels,
)

_METADATA_FIELDS = ("question", "kind", "classes", "attribute", "hide", "horizon")
"""Fields of `Labels` that its file holds as metadata; `name` is the file's name."""
_CHUNK_PAIRS = 20_000
"""Number of pairs labelled at once, to bound memory."""


@dataclass(frozen=True)
class Labels:
    """Targets of (user, cut-off) pairs, and the question that they answer."""

    name: str
    """Name of the task. `load` takes it from the file's name, without the ending."""
    question: str
    """The question that the labels answer, as a plain sentence."""
    kind: Kind
    user_ids: tuple[str, ...]
    """User of each pair (B,)."""
    cutoffs: Int64
    """Cut-off of each pair, in microseconds since 1970 (B,)."""
    targets: NDArray[Any]
    """Binary: int64 0 or 1 (B,); multiclass: int64 class (B,); multilabel: bool (B, C);
    regression: float32 (B,)."""
    classes: tuple[str, ...] = ()
    """Class names of multiclass and multilabel tasks."""
    attribute: tuple[str, str] | None = None
    """(segment, attribute) whose values are the classes: class c is the id c + `FIRST_VALUE`."""
    hide: tuple[str, ...] = ()
    """Profile fields that leak the label; they are hidden from every model."""
    horizon: str | None = None
    """Time after the cut-off within which the answer is looked for, such as `28d`."""

    def __len__(self) -> int:
        """Returns the number of pairs."""
        return len(self.user_ids)

    def take(self, index: NDArray[np.integer[Any]]) -> Self:
        """Returns the labels of the pairs at `index`, in the order of `index`."""
        return replace(
            self,
            user_ids=tuple(self.user_ids[i] for i in index),
            cutoffs=self.cutoffs[index],
            targets=self.targets[index],
        )

    def save(self, path: str | Path) -> None:
        """Writes a Parquet file: `user_id`, `cutoff`, `label`, and `_METADATA_FIELDS` as metadata.

        The name of the task is not in the file.
        """
        write_labels(Path(path), self._metadata(), self.user_ids, self.cutoffs, self.targets)

    def _metadata(self) -> LabelsMetadata:
        return LabelsMetadata(**{name: getattr(self, name) for name in _METADATA_FIELDS})

    @classmethod
    def load(cls, path: str | Path, data: PreparedData) -> "Labels":
        """Reads a file that `save` wrote, or the user's own file; see `of` for its columns."""
        path = Path(path)
        try:
            frame = read_table(path)
        except InputError as error:
            raise LabelError(str(error)) from error
        if path.suffix.lower() != ".parquet" and "label" in frame.columns:
            frame = frame.with_columns(parse_numbers(frame["label"]))
        labels = cls._of(frame, data, str(path), read_metadata(path))
        return replace(labels, name=path.stem)

    @classmethod
    def of(cls, frame: Any, data: PreparedData, name: str = "labels") -> "Labels":
        """Reads labels from a frame or any Arrow table; `name` is the task's name in messages.

        Columns: `user_id`, `label` and optionally `cutoff`. A cut-off without a time zone is in the
        schema's `timezone`. Without the column `cutoff`, all cut-offs are just after the last
        event. The kind of the task is inferred from the labels. Raises `LabelError` if the labels
        cannot be used.
        """
        return cls._of(pl.DataFrame(frame), data, name, None)

    @classmethod
    def _of(
        cls, frame: pl.DataFrame, data: PreparedData, name: str, stored: LabelsMetadata | None
    ) -> "Labels":
        try:
            pairs = pairs_in(frame, data, name)
            require_column(frame, "label", name)
        except InputError as error:
            raise LabelError(str(error)) from error
        column = check_labels(frame["label"], name)
        users = tuple(user_id_column(frame, name))
        metadata = stored
        if metadata is None:
            kind = kind_of(column)
            classes = tuple(classes_of(column, kind))
            question = f"What is {Path(name).stem}?"
            metadata = LabelsMetadata(question=question, kind=kind, classes=classes)
        try:
            targets = targets_of(column, metadata.kind, metadata.classes)
        except pl.exceptions.PolarsError as error:  # a label is not among the metadata's classes
            raise changed_error(name) from error
        if metadata.checksum not in (None, checksum_of(metadata, users, pairs.cutoffs, targets)):
            raise changed_error(name)
        fields = {field: getattr(metadata, field) for field in _METADATA_FIELDS}
        labels = cls(name, user_ids=users, cutoffs=pairs.cutoffs, targets=targets, **fields)
        return _checked(labels, data)


def label_next(
    data: PreparedData,
    attribute: str,
    pairs: Pairs,
    *,
    segment: str | None = None,
    horizon: str | None = None,
) -> Labels:
    """Labels users with the values of an attribute in their next word (paper §4.2, next genre).

    The next word is the first at or after the cut-off in `segment`; the default is the short-term
    segment if it has the attribute, else the long-term one. If the cut-off divides a word, only the
    actions at or after the cut-off count. Users without a next word within `horizon`, a duration
    such as `28d` (`None`: no limit), or without a known value in that word are left out.
    """
    segment = _segment_with(data, attribute, segment)
    vocabulary = data.vocabularies.segments[segment][attribute]
    if not isinstance(vocabulary, Categories):
        raise LabelError(
            f"attribute: {attribute} is a number, but next-value labels need a categorical "
            f"attribute. Choose one of: {', '.join(_categorical(data))}."
        )
    pairs = _eligible(data, pairs)
    targets = np.zeros((len(pairs), len(vocabulary.values)), dtype=bool)
    position = list(data.vocabularies.segments[segment]).index(attribute)
    for part in _chunks(len(pairs)):
        cutoffs = pairs.cutoffs[part]
        end = None if horizon is None else cutoffs + _duration_us(horizon)
        actions = actions_between(data, segment, pairs.rows[part], cutoffs, end)
        users = list_numbers(actions.offsets)
        # The cut-off may divide a word: then the rest of this word is the next word.
        word = np.cumsum(actions.word_starts)
        has_actions = np.diff(actions.offsets) > 0
        first_word = np.zeros(len(cutoffs), np.int64)
        first_word[has_actions] = word[actions.offsets[:-1][has_actions]]
        ids = actions.ids[position]
        is_counted = (word == first_word[users]) & (ids >= FIRST_VALUE)
        targets[part][users[is_counted], ids[is_counted] - FIRST_VALUE] = True
    labels = _labels(data, pairs, f"next_{attribute}", "multilabel", targets)
    labels = replace(
        labels,
        question=f"Which values of {attribute} does the user's next {segment} word hold?",
        classes=vocabulary.values,
        attribute=(segment, attribute),
        horizon=horizon,
    )
    return _checked(labels.take(np.flatnonzero(targets.any(axis=1))), data)


def label_return(data: PreparedData, pairs: Pairs, horizon: str) -> Labels:
    """Labels users by whether they act at or after the cut-off and before cut-off + `horizon`.

    `horizon` is a duration such as `28d`. Raises `LabelError` if the latest cut-off + `horizon` is
    more than a day after the last event, because the answers are not known yet.
    """
    pairs = _eligible(data, pairs)
    ends = pairs.cutoffs + _duration_us(horizon)
    if len(pairs) and ends.max() > data.last_event + DAY_US:
        raise LabelError(
            f"a horizon of {horizon} after the latest cut-off ends more than a day after the last "
            f"event of {data.path}: the answer is not known yet. Choose an earlier cut-off."
        )
    returns = np.zeros(len(pairs), dtype=np.int64)
    for part in _chunks(len(pairs)):
        for segment in data.schema.segments:
            rows, cutoffs = pairs.rows[part], pairs.cutoffs[part]
            actions = actions_between(data, segment, rows, cutoffs, ends[part])
            returns[part] |= np.diff(actions.offsets) > 0
    labels = _labels(data, pairs, f"return_{horizon}", "binary", returns)
    question = f"Does the user act again within {horizon}?"
    return _checked(replace(labels, question=question, horizon=horizon), data)


def label_attribute(
    data: PreparedData,
    pairs: Pairs,
    field: str,
    positive: Collection[str],
    hide: Collection[str] = (),
) -> Labels:
    """Labels users by whether a profile field has one of the `positive` values (paper §4.2).

    The field itself is always hidden; `hide` adds fields that leak it. Users without a known value,
    or with a value too rare for the vocabulary, are left out.
    """
    profile = data.vocabularies.profile
    for name in (field, *hide):
        if name not in profile:
            raise LabelError(f"the profile has no field {name!r}.{_suggestion(name, profile)}")
    vocabulary = profile[field]
    values = vocabulary.names[UNKNOWN + 1 :]
    for value in positive:
        if value not in values:
            raise LabelError(f"{field} has no value {value!r}.{_suggestion(value, values)}")
    pairs = _eligible(data, pairs)
    others = [name for name in profile if name != field]
    ids = profile_ids(data, pairs.rows, pairs.cutoffs, others)[:, 0]
    positive_ids = [values.index(value) + FIRST_VALUE for value in positive]
    targets = np.isin(ids, positive_ids).astype(np.int64)
    labels = _labels(data, pairs, field, "binary", targets)
    labels = replace(
        labels,
        question=f"Is the user's {field} {' or '.join(positive)}?",
        hide=tuple(dict.fromkeys([field, *hide])),
    )
    return _checked(labels.take(np.flatnonzero(ids > UNKNOWN)), data)


def label_response(
    data: PreparedData,
    pairs: Pairs,
    positives: Collection[str],
    *,
    among: Collection[str] | None = None,
    negatives: int | None = None,
    seed: int = 0,
) -> Labels:
    """Labels users by whether they responded (paper §4.2); `positives` are the ids of responders.

    The other users of `among` (ids; `None`: all users) are negative: all of them, or `negatives`
    per positive, drawn uniformly (the paper's ratio is 3). The data do not hold the responses, so
    whether they came after the cut-off is not checked.
    """
    pairs = _eligible(data, pairs)
    known = data.rows_of(sorted(positives))
    if not (known >= 0).any():
        raise LabelError(
            f"positives: none of the {len(known)} users who responded is in {data.path}. Write the "
            "ids as in the logs."
        )
    responded = np.isin(pairs.rows, known)
    is_labelled = np.ones(len(pairs), dtype=bool)
    if among is not None:
        is_labelled = responded | np.isin(pairs.rows, data.rows_of(sorted(among)))
    if negatives is not None:
        others = np.flatnonzero(is_labelled & ~responded)
        number = min(len(others), negatives * int(responded.sum()))
        drawn = np.random.default_rng(seed).choice(others, number, replace=False)
        is_labelled = responded.copy()
        is_labelled[drawn] = True
    labels = _labels(data, pairs, "response", "binary", responded.astype(np.int64))
    labels = replace(labels, question="Does the user respond?")
    return _checked(labels.take(np.flatnonzero(is_labelled)), data)


def _labels(
    data: PreparedData, pairs: Pairs, name: str, kind: Kind, targets: NDArray[Any]
) -> Labels:
    users = tuple(data.user_ids.take(pa.array(pairs.rows)).to_pylist())
    return Labels(name, "", kind, users, pairs.cutoffs, targets)


def _eligible(data: PreparedData, pairs: Pairs) -> Pairs:
    """Returns the pairs whose user has at least one action in a segment before the cut-off."""
    has_past = first_events(data)[pairs.rows] < pairs.cutoffs
    return Pairs(pairs.rows[has_past], pairs.cutoffs[has_past])


def _checked(labels: Labels, data: PreparedData) -> Labels:
    """Returns the labels; raises `LabelError` if no model can be fitted to them.

    Reasons: there are no labels, all are equal, or they need fields or values that the data do not
    have.
    """
    if len(labels) == 0:
        raise LabelError(
            f"{labels.name}: no user has both an action before the cut-off and a known label. "
            "Choose another cut-off."
        )
    if labels.kind != "multilabel" and len(np.unique(labels.targets)) == 1:
        value = labels.targets[0]
        if labels.kind == "multiclass":
            value = labels.classes[value]
        raise LabelError(
            f"{labels.name}: all {len(labels)} labels are {value}; a model needs at least two "
            "different answers. Check the question, or choose another cut-off."
        )
    unknown = set(labels.hide) - set(data.vocabularies.profile)
    if unknown:
        raise LabelError(
            f"{labels.name} hides the profile fields {', '.join(sorted(unknown))}, which "
            f"{data.path} does not have. Use the data that the labels were made from, or make the "
            "labels again."
        )
    if labels.attribute is not None:
        segment, attribute = labels.attribute
        vocabulary = data.vocabularies.segments.get(segment, {}).get(attribute)
        if vocabulary is None or labels.classes != tuple(vocabulary.names[FIRST_VALUE:]):
            raise LabelError(
                f"{labels.name}: its classes are not the values of {attribute} in {data.path}. "
                "Make the labels again from these data with `userbert label next`."
            )
    return labels


def _segment_with(data: PreparedData, attribute: str, segment: str | None) -> str:
    """Returns `segment`; if it is None, the first segment with the attribute, short-term first.

    Raises `LabelError` if there is no such segment or it does not have the attribute.
    """
    segments = data.vocabularies.segments
    if segment is not None and segment not in segments:
        raise LabelError(f"the data have no segment {segment!r}.{_suggestion(segment, segments)}")
    matching = [name for name in ("short_term", "long_term") if attribute in segments.get(name, {})]
    if segment is not None and segment not in matching:
        raise LabelError(
            f"the segment {segment!r} has no attribute {attribute!r}."
            f"{_suggestion(attribute, segments[segment])}"
        )
    if not matching:
        raise LabelError(
            f"no segment has an attribute {attribute!r}."
            f"{_suggestion(attribute, _categorical(data))}"
        )
    return segment if segment is not None else matching[0]


def _categorical(data: PreparedData) -> list[str]:
    """Returns the names of the categorical attributes of all segments, without duplicates."""
    names = {
        name: None
        for attributes in data.vocabularies.segments.values()
        for name, vocabulary in attributes.items()
        if vocabulary.is_categorical
    }
    return list(names)


def _suggestion(name: str, known: Collection[str]) -> str:
    """Returns a sentence with the known name closest to `name`, or up to 20 of the known names."""
    close = difflib.get_close_matches(name, list(known), n=1)
    if close:
        return f" Did you mean {close[0]!r}?"
    return f" Choose one of: {', '.join(list(known)[:20]) or '(none)'}."


def _duration_us(horizon: str) -> int:
    try:
        return parse_duration(horizon) // timedelta(microseconds=1)
    except ValueError as error:
        raise LabelError(f"horizon: {error}.") from error


def _chunks(count: int) -> Iterator[slice]:
    for first in range(0, count, _CHUNK_PAIRS):
        yield slice(first, first + _CHUNK_PAIRS)
