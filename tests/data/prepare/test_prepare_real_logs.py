"""Preparing real logs gives the words that a plain count gives."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from prepared_logs import row_accounts
from small_logs import prepare_events
from userbert.data.use.sequences import cut
from userbert.schema.models import Schema


@pytest.mark.slow
def test_words_of_real_visits_equal_a_plain_count(tmp_path: Path, real_data: Path) -> None:
    file = real_data / "ga4-merch-store" / "events.parquet"
    schema = f"""
user: user_id
timezone: America/Los_Angeles
sources: {{log: {{path: {file}, time: timestamp, action: {{column: event_type}}}}}}
attributes:
  page: {{column: page_category, share: true}}
  item: {{column: item_name, min_users: 5}}
  price: {{column: item_price, bins: 9, min: 0}}
segments:
  long_term:
    words: {{by: day}}
    window: {{from: 90d, to: 7d}}
    actions: [view_item, add_to_cart, purchase]
    attributes: [item, price]
  short_term:
    words: {{by: gap, minutes: 30}}
    window: 7d
    actions: [page_view, view_item]
    attributes: [page]
profile:
  path: {real_data / "ga4-merch-store" / "profiles.parquet"}
  fields: {{country: {{column: country}}}}
"""
    data = prepare_events(tmp_path, {}, schema, memory=256 << 20)
    data.verify()
    assert row_accounts(data)[str(file)]["read"] == 2_734_185
    events = pl.read_parquet(file, columns=["user_id", "timestamp", "event_type"])
    views = events.filter(pl.col("event_type").is_in(["page_view", "view_item"]))
    views = views.sort("user_id", "timestamp").with_columns(
        gap=pl.col("timestamp").diff().over("user_id") > pl.duration(minutes=30)
    )
    items = events.filter(pl.col("event_type").is_in(["view_item", "add_to_cart", "purchase"]))
    local = pl.col("timestamp").dt.replace_time_zone("UTC")
    clock = local.dt.convert_time_zone("America/Los_Angeles").dt.replace_time_zone(None)
    days = items.select("user_id", day=clock.dt.offset_by("-4h").dt.date()).n_unique()
    summary = json.loads((data.path / "summary.json").read_text())
    assert summary["actions"] == {"long_term": len(items), "short_term": len(views)}
    assert summary["words"] == {
        "long_term": days,
        "short_term": views["user_id"].n_unique() + int(views["gap"].sum()),
    }
    known = set(data.user_ids.to_pylist())
    assert known == set(views["user_id"]) | set(items["user_id"])


@pytest.mark.slow
def test_a_real_log_of_dates_has_a_word_per_day(tmp_path: Path, real_data: Path) -> None:
    file = real_data / "ta-feng" / "events.parquet"
    schema = f"""
user: user_id
timezone: Asia/Taipei
sources:
  log: {{path: {file}, time: {{column: timestamp, zone: local, resolution: day}}, action: buy}}
attributes: {{group: {{column: product_subclass}}, hour: {{of: hour}}}}
segments:
  long_term: {{words: {{by: day}}, window: 120d, actions: [buy], attributes: [group, hour]}}
"""
    data = prepare_events(tmp_path, {}, schema)
    data.verify()
    assert row_accounts(data)[str(file)]["used"] == 817_741
    events = pl.read_parquet(file, columns=["user_id", "timestamp"])
    batch = cut(data, np.arange(len(data)), np.full(len(data), data.default_cutoff))
    (words,) = batch.segments
    assert words.words_cut == words.actions_cut == 0
    per_user = events.unique().group_by(pl.col("user_id").cast(pl.String)).len()
    expected = dict(per_user.rows())
    assert expected == dict(zip(data.user_ids.to_pylist(), words.word_counts.tolist(), strict=True))
    assert (words.ids[1] == 0).all(), "a date has no hour"
    assert data.default_cutoff == Schema.parse(schema).instant("2001-03-01")
