"""Users in the report: vocabulary coverage, maps of all users, one user's words.

In: prepared data, a pretrained model, a cut-off. Out: records of plain values and figures. Only
`report.py` uses this file.

Letters in shapes: B users, S segments, H numbers of a vector.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from markupsafe import Markup
from matplotlib.colors import LinearSegmentedColormap, to_hex
from numpy.typing import NDArray
from sklearn.manifold import TSNE

from userbert.data.batches import UserBatch
from userbert.data.ragged import Int64
from userbert.data.store import PreparedData
from userbert.data.use.pairs import first_events
from userbert.data.use.sequences import cut, profile_ids
from userbert.data.use.timeline import WordView, profile_values, timeline
from userbert.data.vocabulary import FIRST_VALUE, NONE, UNKNOWN, Categories, Vocabulary
from userbert.errors import InputError
from userbert.model.masked_prediction import predict_masked_word, predicts_masked_words
from userbert.model.userbert import UserBert, embed_pairs
from userbert.report import figures
from userbert.tasks.labels import Labels

MOST_USERS = 5_000
"""Maximum number of users that the report describes; more would not change a histogram visibly."""
FEWEST_FOR_TSNE = 50
"""Minimum number of users for t-SNE; fewer have no neighbourhoods to preserve."""
MOST_MAPPED = 1_500
"""Maximum number of users on a map; t-SNE takes about ten seconds for 1,500."""
WORDS_OF_A_PORTRAIT = range(8, 21)
"""Preferred numbers of words of the user in the portrait."""
EXPECTED_VALUES = 5
"""Number of most likely values listed per attribute of the hidden word."""
_AROUND_AMOUNTS = re.compile(
    r"[\d\s.,+<>$€£-]|\b(under|below|over|above|less|than|to|or|more|and|up|years?)\b|(?<=\d)[km]"
)
"""Text that an amount may have next to its digits: "Under 15K", "15-24K", "250K+", "65 or more"."""

Colour = str | Labels
"""Colouring of a map of users: the name of a profile field, or a task's labels."""


@dataclass(frozen=True)
class UserSample:
    """Users that the report describes: all, or a random sample with a fixed seed."""

    rows: Int64
    """Rows of the users in the data (B,), ascending."""
    cutoff: int
    """Cut-off of all users, in microseconds since 1970."""
    batch: UserBatch
    """Sequences of the users before the cut-off."""
    is_drawn: bool
    """Whether the users are a random sample."""


@dataclass(frozen=True)
class Coverage:
    """Vocabulary coverage of an attribute, in shares of the actions that models read."""

    segment: str
    attribute: str
    values: int
    """Number of values in the vocabulary."""
    known: float
    """Share of actions with a value in the vocabulary."""
    unknown: float
    """Share of actions with a value that is not in the vocabulary."""
    none: float
    """Share of actions without a value."""


@dataclass(frozen=True)
class UserMap:
    """A map of users in two dimensions, coloured by a profile field or a task's labels."""

    title: str
    note: str
    """Sentences that say whether the model read the values."""
    figure: Markup
    legend: list[tuple[str, str, int]]
    """Colour, value, number of users."""


@dataclass(frozen=True)
class ExpectedValue:
    """A value that the model expects in a hidden word."""

    value: str
    probability: float
    rank: int | None
    """Rank of the value by frequency among all users, from 1; `None` for numbers and *unknown*."""
    is_there: bool
    """Whether the hidden word holds the value."""


@dataclass(frozen=True)
class Expectation:
    """Expected and actual values of one attribute of a hidden word."""

    name: str
    """Name of the attribute."""
    expected: list[ExpectedValue]
    """Most likely values, most likely first."""
    there: list[str]
    """Actual values of the word."""


@dataclass(frozen=True)
class HiddenWord:
    """A word that was hidden from the model, and the values that the model expects in it."""

    word: WordView
    """The word, as the logs hold it."""
    attributes: list[Expectation]
    """Expected and actual values by attribute."""


@dataclass(frozen=True)
class Portrait:
    """One user's profile and words."""

    user_id: str
    profile: dict[str, str]
    words: list[WordView]
    hidden: HiddenWord | None
    """One of the words, hidden from the model; `None` if the model does not predict words."""


def sample_users(data: PreparedData, cutoff: int, most: int = MOST_USERS) -> UserSample:
    """Returns the users with an event before the cut-off, and cuts their sequences.

    If there are more than `most` users, `most` of them are drawn at random, always the same.
    """
    rows = np.flatnonzero(first_events(data) < cutoff)
    is_drawn = len(rows) > most
    if is_drawn:
        rows = np.sort(np.random.default_rng(0).choice(rows, most, replace=False))
    return UserSample(rows, cutoff, cut(data, rows, np.full(len(rows), cutoff)), is_drawn)


def coverage(data: PreparedData, batch: UserBatch) -> list[Coverage]:
    """Returns the vocabulary coverage of each attribute in the sequences of a batch."""
    rows = []
    for segment in batch.segments:
        for ids, (name, vocabulary) in zip(
            segment.ids, data.vocabularies.segments[segment.name].items(), strict=True
        ):
            total = max(len(ids), 1)
            counts = np.bincount(np.minimum(ids, FIRST_VALUE), minlength=FIRST_VALUE + 1)
            rows.append(
                Coverage(
                    segment.name,
                    name,
                    vocabulary.size - FIRST_VALUE,
                    counts[FIRST_VALUE] / total,
                    counts[UNKNOWN] / total,
                    counts[NONE] / total,
                )
            )
    return rows


def map_users(
    model: UserBert, data: PreparedData, cutoff: int, colours: Sequence[Colour]
) -> tuple[str, list[UserMap]]:
    """Returns a note on the method, and a map of the users' embeddings for each colouring.

    Without colourings, or with fewer than three users, returns no note and no maps.
    """
    users = sample_users(data, cutoff, MOST_MAPPED)
    if len(users.rows) < 3 or not colours:
        return "", []
    cutoffs = np.full(len(users.rows), users.cutoff)
    points, method = _flatten(embed_pairs(model, data, users.rows, cutoffs))
    if users.is_drawn:
        method += f" The map shows {len(users.rows):,} users, drawn at random."
    maps = []
    for colour in colours:
        if isinstance(colour, str):
            names, values = _field_values(data, users, colour)
            title = colour.replace("_", " ")
            is_input = colour not in model.hidden
            note = (
                "The model reads this field as input."
                if is_input
                else "The model never saw this field; any pattern comes from behavior."
            )
        else:
            names, values = _label_values(data, users, colour)
            title, note = colour.name, f"{colour.question} The model never saw the answers."
        chosen, legend = _colour(names, values)
        figure = figures.user_map(points, chosen, title=f"Map of users by {title}")
        maps.append(UserMap(title, note, figure, legend))
    return method, maps


def portrait(model: UserBert, data: PreparedData, users: UserSample) -> Portrait | None:
    """Describes a user with a medium number of words and a known profile.

    Returns `None` if no user has words.
    """
    segments = users.batch.segments
    counts = np.stack([segment.word_counts for segment in segments])  # (S, B)
    words = counts.sum(axis=0)
    known = (users.batch.profile_ids > UNKNOWN).sum(axis=1)
    is_suitable = np.isin(words, list(WORDS_OF_A_PORTRAIT))
    is_suitable = is_suitable if is_suitable.any() else words > 0
    if not is_suitable.any():
        return None
    middle = (WORDS_OF_A_PORTRAIT.start + WORDS_OF_A_PORTRAIT.stop - 1) // 2
    # Suitable users come first, then users with words in more segments, then users with more known
    # fields, then users with a medium number of words.
    order = np.lexsort((abs(words - middle), -known, -(counts > 0).sum(axis=0), ~is_suitable))
    row = int(users.rows[order[0]])
    shown = timeline(data, row, users.cutoff)
    main_segment = max((word.segment for word in shown), key=[word.segment for word in shown].count)
    main_words = [word for word in shown if word.segment == main_segment]
    middle_word = main_words[len(main_words) // 2]
    return Portrait(
        data.user_ids[row].as_py(),
        profile_values(data, row, users.cutoff),
        [_readable(data, word) for word in shown],
        _hide(model, data, row, users.cutoff, middle_word)
        if predicts_masked_words(model)
        else None,
    )


def _hide(model: UserBert, data: PreparedData, row: int, cutoff: int, word: WordView) -> HiddenWord:
    """Hides a word from the model and returns the values that the model expects in it."""
    expected = predict_masked_word(
        model, data, row, cutoff, word.segment, word.number, EXPECTED_VALUES
    )
    attributes = []
    for name, likely in expected.items():
        vocabulary = data.vocabularies.segments[word.segment][name]
        ranked = vocabulary.values if isinstance(vocabulary, Categories) else ()
        there = [value for value, _ in word.values[name]]
        values = [
            ExpectedValue(
                _named(vocabulary, value),
                probability,
                ranked.index(value) + 1 if value in ranked else None,
                value in there,
            )
            for value, probability in likely
        ]
        attributes.append(Expectation(name, values, [_named(vocabulary, value) for value in there]))
    return HiddenWord(_readable(data, word), attributes)


def _readable(data: PreparedData, word: WordView) -> WordView:
    """Returns a word with readable names of its values."""
    vocabularies = data.vocabularies.segments[word.segment]
    values = {
        name: [(_named(vocabularies[name], value), count) for value, count in held]
        for name, held in word.values.items()
    }
    return replace(word, values=values)


def _flatten(vectors: NDArray[np.float32]) -> tuple[NDArray[np.float64], str]:
    """Returns vectors (B, H) projected to two dimensions (B, 2), and a note on the method."""
    centred = (vectors - vectors.mean(axis=0)).astype(np.float64)
    left, strengths, _ = np.linalg.svd(centred, full_matrices=False)
    if len(vectors) < FEWEST_FOR_TSNE:
        share = (strengths[:2] ** 2).sum() / max((strengths**2).sum(), 1e-12)
        return (
            left[:, :2] * strengths[:2],
            f"The axes are the two directions of largest variance (PCA), {share:.0%} of the total.",
        )
    # 30 directions keep all but noise, and make the neighbour search fast.
    reduced = (left * strengths)[:, :30]
    layout = TSNE(init="pca", random_state=0, perplexity=min(30, len(vectors) // 4), max_iter=500)
    return (
        layout.fit_transform(reduced),
        "Neighbours in the space of the vectors are neighbours here (t-SNE); distances between "
        "clusters mean little.",
    )


def _field_values(
    data: PreparedData, users: UserSample, field: str
) -> tuple[list[str], NDArray[np.int64]]:
    """Returns a profile field's value names, and the index of each user's value (B,); -1: unknown.

    Raises `InputError` if the profile has no such field.
    """
    fields = data.vocabularies.profile
    if field not in fields:
        raise InputError(
            f"the map cannot be coloured by {field!r}, which is not a profile field. The profile "
            f"has: {', '.join(fields)}."
        )
    others = [name for name in fields if name != field]
    cutoffs = np.full(len(users.rows), users.cutoff)
    ids = profile_ids(data, users.rows, cutoffs, others)[:, 0].astype(np.int64)
    return fields[field].names[FIRST_VALUE:], np.maximum(ids - FIRST_VALUE, -1)


def _label_values(
    data: PreparedData, users: UserSample, labels: Labels
) -> tuple[list[str], NDArray[np.int64]]:
    """Returns a task's answers, and the index of each user's answer (B,); -1 if unknown.

    A user with several labels has the last label's answer.
    """
    names = list(labels.classes) if labels.kind == "multiclass" else ["no", "yes"]
    of_user = dict(zip(labels.user_ids, labels.targets.tolist(), strict=True))
    ids = data.user_ids.take(pa.array(users.rows)).to_pylist()
    return names, np.array([of_user.get(user, -1) for user in ids], np.int64)


def _colour(
    names: Sequence[str], values: NDArray[np.int64]
) -> tuple[list[str], list[tuple[str, str, int]]]:
    """Returns a colour for each user (B,), and the legend; `values` (B,) are indices of `names`."""
    counts = np.bincount(values[values >= 0], minlength=len(names))
    order = _natural_order(names)
    if order is not None:
        shades = LinearSegmentedColormap.from_list("ordered", figures.ORDERED_COLOURS)
        spread = max(len(names) - 1, 1)
        colour_of = {number: to_hex(shades(place / spread)) for place, number in enumerate(order)}
        rest = 0
    else:
        order = [int(number) for number in np.argsort(-counts, kind="stable")]
        shown = order[: len(figures.NAMED_COLOURS)]
        colour_of = dict(zip(shown, figures.NAMED_COLOURS, strict=False))
        rest = int(counts.sum() - counts[shown].sum())
    chosen = [colour_of.get(int(value), figures.UNKNOWN_COLOUR) for value in values]
    legend = [
        (colour_of[number], names[number], int(counts[number]))
        for number in order
        if number in colour_of and counts[number]
    ]
    hidden = int((values < 0).sum()) + rest
    if hidden:
        meaning = "not known" if not rest else "not known, or another value"
        legend.append((figures.UNKNOWN_COLOUR, meaning, hidden))
    return chosen, legend


def _natural_order(names: Sequence[str]) -> list[int] | None:
    """Returns the indices of amounts ("Under 15K", "15-24K") in ascending order.

    Returns `None` if the names are not amounts, or fewer than three. A single name that is not an
    amount ("none") is allowed and comes first.
    """
    amounts = {number: _amount(name) for number, name in enumerate(names)}
    without = [number for number, amount in amounts.items() if amount is None]
    if len(names) < 3 or len(without) > 1:
        return None
    rising = sorted((amount, number) for number, amount in amounts.items() if amount is not None)
    return [*without, *(number for _, number in rising)]


def _amount(name: str) -> float | None:
    """Returns the lower end of an amount; `None` if the text is not just an amount.

    An amount without a lower end ("Under 15K") counts as slightly below its number.
    """
    match = re.search(r"-?\d+(\.\d+)?", name)
    if match is None or _AROUND_AMOUNTS.sub("", name.lower()):
        return None
    is_below = name.lower().startswith(("under", "below", "<", "less"))
    return float(match[0]) - 0.5 * is_below


def _named(vocabulary: Vocabulary, name: str) -> str:
    """Returns a value's name; shortens the edges of a numeric bin to three digits."""
    if vocabulary.is_categorical:
        return name
    short = re.sub(r"\d+\.\d+", lambda edge: f"{float(edge[0]):.3g}", name)
    return short.replace(" ", "\N{NO-BREAK SPACE}")
