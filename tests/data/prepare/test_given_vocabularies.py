"""Preparing with the vocabularies of other logs."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from prepared_logs import BREAD
from small_logs import SCHEMA, buys, instant, prepare_events
from userbert.data.use.sequences import actions_between, cut
from userbert.data.vocabulary import Categories, Vocabularies
from userbert.errors import SchemaError


def test_given_vocabularies_give_the_same_ids(tmp_path: Path) -> None:
    first = prepare_events(tmp_path, BREAD)
    later = pl.concat(
        [buys("c", "2018-01-01", genre="wine"), buys("c", "2018-01-02", genre="milk")]
    )
    data = prepare_events(tmp_path, later, vocabularies=first.vocabularies)
    assert data.vocabularies == first.vocabularies
    ids = actions_between(data, "long_term", np.array([0]), None, None).ids[0]
    assert [data.vocabularies.segments["long_term"]["genre"].names[i] for i in ids] == [
        "(unknown)", "milk",
    ]  # fmt: skip


def test_given_vocabularies_decide_the_order_of_attributes(tmp_path: Path) -> None:
    first = prepare_events(tmp_path, BREAD)
    other = SCHEMA.replace("[genre, price, hour]", "[hour, price, genre]")
    data = prepare_events(tmp_path, BREAD, other, vocabularies=first.vocabularies)
    assert data.input_shape() == first.input_shape()
    rows, cutoffs = np.arange(2), np.full(2, instant("2017-06-01"))
    old, new = cut(first, rows, cutoffs), cut(data, rows, cutoffs)
    assert np.array_equal(old.segments[0].ids, new.segments[0].ids)


def test_vocabularies_of_other_attributes_are_refused(tmp_path: Path) -> None:
    other = Vocabularies({"long_term": {"genre": Categories(("bread",))}}, {})
    with pytest.raises(SchemaError, match="long_term: the schema has genre, price, hour, the voc"):
        prepare_events(tmp_path, BREAD, vocabularies=other)
