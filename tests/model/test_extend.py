"""Extended models: new values start as *unknown*, and nothing else changes."""

from pathlib import Path

import polars as pl
import pytest
import torch

from small_logs import SCHEMA, buys, log
from userbert.data.prepare.prepare import prepare
from userbert.data.store import PreparedData
from userbert.errors import ModelError
from userbert.model.extend import extend
from userbert.model.userbert import UserBert, UserBertConfig
from userbert.schema.models import Schema
from userbert.training.pretrain import pretrain
from userbert.training.settings import configure

PROFILE = "profile: {path: people.csv, fields: {age: {column: age}}}\n"
OLD = pl.concat(
    [buys("a", "2017-03-01"), buys("b", "2017-03-01 10:00", "2017-03-03", genre="milk")]
)
NEW = log(
    ("a", "2017-03-04 10:00", "buy", "wine", 2.0),
    ("b", "2017-03-04 10:00", "buy", "milk", 2.0),
    ("c", "2017-03-04 10:00", "click", "tea", None),
)
SHARED = SCHEMA.replace("{column: genre}", "{column: genre, share: true}")


def people(*rows: tuple[str, str]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["user", "age"], orient="row")


def pair(folder: Path, text: str = SCHEMA) -> tuple[PreparedData, PreparedData]:
    """Return data of the same events with the old and with the grown vocabularies."""
    schema = Schema.parse(text + PROFILE)
    first = prepare(
        schema, folder / "0", events={"log": OLD}, profile=people(("a", "30"), ("b", "40"))
    )
    everything = {"log": pl.concat([OLD, NEW])}
    both = people(("a", "30"), ("b", "40"), ("c", "50"))
    frozen, grown = (
        prepare(
            schema,
            folder / name,
            events=everything,
            profile=both,
            vocabularies=first.vocabularies,
            grow=name == "grown",
        )
        for name in ("frozen", "grown")
    )
    return frozen, grown


def model(data: PreparedData, *, summary: bool) -> UserBert:
    config = UserBertConfig(
        layers=1, hidden=16, heads=2, feed_forward=16, attribute_width=8, pool="all",
        word_sizes=True, summary=summary, timing=summary, tells_hidden=True, tells_future=True,
    )  # fmt: skip
    torch.manual_seed(0)
    network = UserBert(
        config, data.input_shape(), schema=data.schema, vocabularies=data.vocabularies
    ).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    with torch.no_grad():
        for tables in (network.embedding.tables, network.embedding.profile):
            tables.weight[0] = 0
    return network


@pytest.mark.parametrize("summary", [False, True])
@pytest.mark.parametrize("text", [SCHEMA, SHARED])
def test_vectors_do_not_change(tmp_path: Path, text: str, summary: bool) -> None:
    frozen, grown = pair(tmp_path, text)
    old = model(frozen, summary=summary)
    new = extend(old, grown)
    # One age; wine in one segment and wine and tea in the other, or both in the shared table.
    assert new.record["extended_by"] == (3 if text == SHARED else 4)
    before, after = (
        network.embed(data)["embedding"].to_numpy()
        for network, data in ((old, frozen), (new, grown))
    )
    users = grown.user_ids.to_pylist()
    assert frozen.user_ids.to_pylist() == users
    unchanged = [users.index("b")] if summary else range(3)
    for user in unchanged:
        assert after[user] == pytest.approx(before[user], abs=1e-6)


def test_heads_keep_the_probabilities_of_known_values(tmp_path: Path) -> None:
    frozen, grown = pair(tmp_path)
    old = model(frozen, summary=True)
    new = extend(old, grown)
    vectors = torch.randn(5, 16)
    heads = ("heads.0", "user_heads.hidden.segments.0", "user_heads.future.segments.0")
    for name in heads:
        before, after = (
            network.get_submodule(f"{name}.attributes.0")(vectors).softmax(dim=1)
            for network in (old, new)
        )
        size = before.shape[1]
        assert after.shape[1] == size + 1
        assert torch.allclose(after[:, 1:size], before[:, 1:], atol=1e-6)
        assert torch.allclose(after[:, [0, size]].sum(dim=1), before[:, 0], atol=1e-6)


def test_extended_model_can_be_saved_and_trained_further(tmp_path: Path) -> None:
    frozen, grown = pair(tmp_path)
    extend(model(frozen, summary=True), grown).save_pretrained(tmp_path / "extended")
    loaded = UserBert.from_pretrained(tmp_path / "extended")
    settings = ["steps=2", "batch_size=2", "held_out=0", "start_from_counts=false"]
    trained = pretrain(grown, config=configure("default", settings), from_model=loaded)
    assert trained.vocabularies.fingerprint == grown.vocabularies.fingerprint


def test_data_of_other_ids_are_refused(tmp_path: Path) -> None:
    frozen, grown = pair(tmp_path)
    with pytest.raises(ModelError, match="ids followed by new ids"):
        extend(model(grown, summary=False), frozen)
    unchanged = extend(model(frozen, summary=False), frozen)
    assert unchanged.record["extended_by"] == 0
