"""`cut` equals plain loops over the events of any history, and moves no word boundary."""

from bisect import bisect_right
from datetime import UTC, date, datetime, time, timedelta
from itertools import groupby, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from small_logs import GENRES, WIDE, logs, prepare_events, words_of
from userbert.data.batches import UserBatch
from userbert.data.prepare.words import DAY_US
from userbert.data.store import PreparedData
from userbert.data.use import sequences as sequences_module
from userbert.data.use.sequences import cut
from userbert.data.vocabulary import Categories
from userbert.schema.models import DayWords, Schema

# The reference: plain loops over events, as in decisions 2, 3 and 8 of the design.

TIGHT = """
user: user
timezone: America/New_York
sources:
  log: {path: log.csv, time: {column: time, zone: local}, action: {column: action}}
attributes: {genre: {column: genre}, price: {column: price, bins: 3}, hour: {of: hour}}
segments:
  long_term:
    words: {by: day}
    window: {from: 9d, to: 1d}
    actions: [buy]
    attributes: [genre, price, hour]
    max_words: 3
    max_actions: 3
  short_term:
    words: {by: gap, minutes: 30}
    window: 1d
    actions: [buy, click]
    attributes: [price, genre]
    max_words: 2
    max_actions: 2
"""


def day_of(moment: int, schema: Schema) -> date:
    local = datetime.fromtimestamp(moment // 1_000_000, UTC).astimezone(schema.zone)
    return (local.replace(tzinfo=None) - timedelta(hours=4)).date()


class Reference:
    """Words of one user at one cut-off, and the numbers of dropped words and actions."""

    def __init__(self, data: PreparedData, events: pl.DataFrame, user: str, cutoff: int) -> None:
        self.data, self.cutoff = data, cutoff
        self.events = events.filter(pl.col("user") == user)
        self.words_cut, self.actions_cut = [0, 0], [0, 0]
        short, begin = self.words("short_term", 1, cutoff)
        long, _ = self.words("long_term", 0, min(cutoff - DAY_US, begin))
        self.segments = [long, short]

    def actions(self, name: str) -> list[tuple[int, list[int]]]:
        """All actions of a segment: times, and ids in the order of attributes."""
        schema = self.data.schema
        rows = []
        for event in self.events.rows(named=True):
            if event["action"] not in schema.segments[name].actions:
                continue
            moment = int(
                (event["time"] - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1)
            )
            hour = str(event["time"].astimezone(schema.zone).hour)
            raw = {"genre": event["genre"], "price": event["price"], "hour": hour}
            ids, order = [], []
            for attribute, vocabulary in self.data.vocabularies.segments[name].items():
                value = raw[attribute]
                if value is None:
                    number = 0
                elif isinstance(vocabulary, Categories):
                    number = vocabulary.names.index(value)
                else:
                    number = 2 + bisect_right(vocabulary.edges, value)
                ids.append(number)
                is_price = attribute == "price"
                order.append((value is None, value or 0) if is_price else (False, number))
            rows.append((moment, order, ids))
        return [(moment, ids) for moment, _, ids in sorted(rows)]

    def words(self, name: str, place: int, end: int) -> tuple[list[tuple[int, Any]], int]:
        """Returns words as (position, ids of actions), and the time of the first visible action."""
        schema = self.data.schema
        segment = schema.segments[name]
        start = self.cutoff - segment.window.from_ // timedelta(microseconds=1)
        words: list[list[tuple[int, list[int]]]] = []
        if isinstance(segment.words, DayWords):
            first_day = day_of(start, schema)
            start = schema.instant(datetime.combine(first_day, time(4)))
            groups = groupby(self.actions(name), lambda action: day_of(action[0], schema))
            words = [list(actions) for _, actions in groups]
        else:
            last = None
            for action in self.actions(name):
                if last is None or action[0] - last > 30 * 60_000_000:
                    words.append([])
                words[-1].append(action)
                last = action[0]
        visible = []
        for actions in words:
            seen = [action for action in actions if action[0] < end]
            if any(moment >= start for moment, _ in seen):
                visible.append(seen)
        begin = visible[0][0][0] if visible else 2**63 - 1
        self.words_cut[place] += max(0, len(visible) - segment.max_words)
        result = []
        for actions in visible[-segment.max_words :]:
            moment = actions[0][0]
            if isinstance(segment.words, DayWords):
                position = (day_of(moment, schema) - first_day).days
            else:
                position = max(0, moment // 3_600_000_000 - start // 3_600_000_000)
            self.actions_cut[place] += max(0, len(actions) - segment.max_actions)
            kept = actions[-segment.max_actions :]
            result.append((position, [ids for _, ids in kept]))
        return result, begin


def as_lists(batch: UserBatch, number: int) -> list[list[tuple[int, Any]]]:
    part = batch.segments[number]
    words = [
        (int(position), part.ids[:, first:last].T.tolist())
        for position, (first, last) in zip(
            part.positions, pairwise(part.action_offsets.tolist()), strict=True
        )
    ]
    return [words[first:last] for first, last in pairwise(part.word_offsets.tolist())]


@settings(max_examples=60)
@given(
    logs(),
    st.lists(
        st.tuples(
            st.integers(0, 40),
            st.sampled_from([0, 1, -1, 60_000_000, DAY_US, DAY_US + 1, 9 * DAY_US, 10**12]),
        ),
        min_size=1,
        max_size=8,
    ),
)
def test_cut_equals_plain_loops(events: pl.DataFrame, moments: list[tuple[int, int]]) -> None:
    with TemporaryDirectory() as folder:
        data = prepare_events(Path(folder), events, TIGHT)
        users = data.user_ids.to_pylist()
        times = events["time"].dt.timestamp("us").to_list()
        pairs = [
            (user, times[number % len(times)] + offset)
            for user in users
            for number, offset in moments
        ]
        rows = data.rows_of([user for user, _ in pairs])
        moments_of = np.array([moment for _, moment in pairs])
        batch = cut(data, rows, moments_of)
        # So many pairs that their slices are searched at once, not in a loop.
        repeats = sequences_module._FEW_USERS // len(rows) + 1
        repeated = cut(data, np.tile(rows, repeats), np.tile(moments_of, repeats))
        expected = [Reference(data, events, user, moment) for user, moment in pairs]
        for number, segment in enumerate(batch.segments):
            assert as_lists(batch, number) == [sequence.segments[number] for sequence in expected]
            assert as_lists(repeated, number) == as_lists(batch, number) * repeats
            assert segment.words_cut == sum(sequence.words_cut[number] for sequence in expected)
            assert segment.actions_cut == sum(sequence.actions_cut[number] for sequence in expected)


@settings(max_examples=40)
@given(logs(), st.integers(0, 40), st.integers(0, 40))
def test_cutting_never_moves_the_boundary_of_a_word(
    events: pl.DataFrame, first: int, second: int
) -> None:
    with TemporaryDirectory() as folder:
        data = prepare_events(Path(folder), events, WIDE)
        times = events["time"].dt.timestamp("us").sort().to_list()
        early, late = sorted([times[first % len(times)], times[second % len(times)] + 1])
        everyone = np.arange(len(data))
        for number in (0, 1):
            before = as_lists(cut(data, everyone, np.full(len(data), early)), number)
            after = as_lists(cut(data, everyone, np.full(len(data), late)), number)
            for short, long in zip(before, after, strict=True):
                assert len(short) <= len(long)
                for (_, complete), (_, visible) in zip(long[: len(short) - 1], short, strict=False):
                    assert visible == complete
                if short:
                    last = short[-1][1]
                    assert last == long[len(short) - 1][1][: len(last)]
                    gaps = np.array([word[0] for word in long[: len(short)]]) - [
                        word[0] for word in short
                    ]
                    assert len(set(gaps.tolist())) == 1, "all move with the window alone"


@settings(max_examples=40)
@given(logs(), st.integers(0, 40), st.sampled_from([0, 1, DAY_US - 1, DAY_US, DAY_US + 1]))
def test_abutting_windows_hold_every_action_once(
    events: pl.DataFrame, number: int, offset: int
) -> None:
    events = events.with_columns(genre=pl.int_range(pl.len()).cast(pl.String))
    with TemporaryDirectory() as folder:
        schema = GENRES.replace("to: 7d", "to: 1d").replace("window: 7d", "window: 1d")
        data = prepare_events(Path(folder), events, schema)
        cutoff = events["time"].dt.timestamp("us")[number % len(events)] + offset
        batch = cut(data, np.arange(len(data)), np.full(len(data), cutoff))
        seen: list[str] = []
        for segment in ("long_term", "short_term"):
            for words in words_of(data, batch, segment):
                seen += [genre for _, actions in words for (genre,) in actions]
        assert len(set(seen)) == len(seen)
        moments = events["time"].dt.timestamp("us")
        within = events.filter(
            (moments < cutoff) & (moments >= cutoff - 90 * DAY_US), pl.col("action") == "buy"
        )
        assert set(within["genre"]) <= set(seen)
        assert set(seen) <= set(events.filter(moments < cutoff)["genre"])
