"""Predictions of the values in a masked word."""

from pathlib import Path

import pytest
import torch

from small_logs import Event, log, prepare_events
from userbert.data.store import PreparedData
from userbert.errors import InputError
from userbert.model.masked_prediction import predict_masked_word
from userbert.model.userbert import UserBert, UserBertConfig

OTHERS = [
    *(("bob", f"2024-03-{day:02}T15:00", "buy", "bread", 1.0) for day in range(1, 6)),
    *(("bob", f"2024-03-{day:02}T15:00", "buy", "milk", 3.0) for day in range(1, 4)),
]


def _data(folder: Path, second_word: str = "bread") -> PreparedData:
    """Return data in which Ann has two long-term words and a short-term word, a click."""
    ann: list[Event] = [
        ("ann", "2024-03-01T15:00", "buy", "bread", 1.0),
        ("ann", "2024-03-01T15:01", "buy", "milk", 3.0),
        ("ann", "2024-03-05T15:00", "buy", second_word, 3.0),
        ("ann", "2024-03-20T15:00", "click", "bread", None),
    ]
    return prepare_events(folder, log(*OTHERS, *ann))


def _row(data: PreparedData) -> int:
    return int(data.rows_of(["ann"])[0])


@pytest.fixture
def data(tmp_path: Path) -> PreparedData:
    return _data(tmp_path)


def _model(data: PreparedData) -> UserBert:
    torch.manual_seed(0)
    config = UserBertConfig(layers=1, hidden=16, heads=2, feed_forward=32)
    return UserBert(
        config, data.input_shape(), schema=data.schema, vocabularies=data.vocabularies
    ).train()


def test_each_attribute_has_a_distribution_over_its_values(data: PreparedData) -> None:
    predicted = predict_masked_word(
        _model(data), data, _row(data), data.default_cutoff, "long_term", 0, best=99
    )
    assert list(predicted) == ["genre", "price", "hour"]
    assert {value for value, _ in predicted["genre"]} == {"(unknown)", "bread", "milk"}
    for values in predicted.values():
        probabilities = [probability for _, probability in values]
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
        assert probabilities == sorted(probabilities, reverse=True)


def test_prediction_does_not_depend_on_the_masked_word(data: PreparedData, tmp_path: Path) -> None:
    others = _data(tmp_path, second_word="milk")
    assert others.vocabularies.fingerprint == data.vocabularies.fingerprint
    model, row, cutoff = _model(data), _row(data), data.default_cutoff
    prediction = predict_masked_word(model, data, row, cutoff, "long_term", 1)
    assert prediction == predict_masked_word(model, others, row, cutoff, "long_term", 1)
    assert prediction != predict_masked_word(model, data, row, cutoff, "long_term", 0)


def test_model_stays_in_training_mode(data: PreparedData) -> None:
    model = _model(data)
    predict_masked_word(model, data, _row(data), data.default_cutoff, "short_term", 0)
    assert model.training


@pytest.mark.parametrize(("segment", "number"), [("long_term", 2), ("long_term", -1), ("week", 0)])
def test_missing_word_is_refused(data: PreparedData, segment: str, number: int) -> None:
    with pytest.raises(InputError, match="no word"):
        predict_masked_word(_model(data), data, _row(data), data.default_cutoff, segment, number)


def _without_masked_words(data: PreparedData, *, hidden: bool, future: bool) -> UserBert:
    """Return a model that was not pretrained on masked words."""
    torch.manual_seed(0)
    config = UserBertConfig(
        layers=1, hidden=16, heads=2, feed_forward=32, tells_hidden=hidden, tells_future=future
    )
    objectives = {"words": 0.0, "hidden": float(hidden), "future": float(future)}
    return UserBert(
        config, data.input_shape(), schema=data.schema, vocabularies=data.vocabularies,
        record={"config": {"objectives": objectives}},
    )  # fmt: skip


def test_untrained_heads_are_not_used(data: PreparedData, tmp_path: Path) -> None:
    model, row, cutoff = (
        _without_masked_words(data, hidden=True, future=True),
        _row(data),
        data.default_cutoff,
    )
    predicted = predict_masked_word(model, data, row, cutoff, "long_term", 1)
    with torch.no_grad():
        for weight in model.heads[0].parameters():  # the heads of masked words
            weight.fill_(9.0)
    assert predict_masked_word(model, data, row, cutoff, "long_term", 1) == predicted
    assert list(predicted) == ["genre", "price", "hour"]
    # The word is removed, so its values change nothing.
    others = _data(tmp_path, second_word="milk")
    assert predict_masked_word(model, others, row, cutoff, "long_term", 1) == predicted


def test_model_pretrained_on_the_future_alone_is_refused(data: PreparedData) -> None:
    model = _without_masked_words(data, hidden=False, future=True)
    with pytest.raises(InputError, match="neither masked words nor hidden actions"):
        predict_masked_word(model, data, _row(data), data.default_cutoff, "long_term", 0)
