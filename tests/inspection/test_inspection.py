"""`inspect` shows the right figures (small data, counted by hand), and the health of vectors."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, RenderableType
from safetensors.torch import load_file

from small_logs import SCHEMA, buys, cutoffs, log, prepare_events
from userbert.data.store import PreparedData
from userbert.data.use.pairs import pairs_at
from userbert.embedding.embed import write_embeddings
from userbert.errors import InputError
from userbert.inspection import inspect
from userbert.inspection.layout import counts_as_bars, share
from userbert.inspection.prepared import describe_data
from userbert.inspection.vectors import describe_vectors, health
from userbert.model.userbert import UserBert, UserBertConfig
from userbert.tasks.labels import Labels
from userbert.training.pretrain import pretrain
from userbert.training.settings import PretrainConfig

PROFILE = "profile: {path: p.csv, fields: {age: {column: age}}}\n"


def shown(*arguments: Any) -> str:
    """Returns what `inspect` prints, with table borders as `|`."""
    return printed(inspect(*arguments))


def printed(renderable: RenderableType) -> str:
    """Returns what the console prints, with table borders as `|`."""
    console = Console(width=200, highlight=False, soft_wrap=True)
    with console.capture() as capture:
        console.print(renderable)
    lines = capture.get().translate(str.maketrans("│┃", "||")).splitlines()
    return "\n".join(" ".join(line.split()) for line in lines)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    """Twenty users with one word, one with five, one who only clicks; one rare genre."""
    events = [buys(f"u{number}", "2017-03-01") for number in range(20)]
    events.append(buys("often", *(f"2017-03-0{day}" for day in range(1, 6)), genre="milk"))
    events.append(log(("clicks", "2017-03-02", "click", "rare", 1.0)))
    events.append(log(("u0", "2017-03-01", "looks", "bread", 1.0)))
    people = pl.DataFrame({"user": ["u0", "u1"], "age": ["old", "old"]})
    return prepare_events(
        tmp_path_factory.mktemp("inspected"),
        pl.concat(events),
        SCHEMA.replace("{column: genre}", "{column: genre, max_values: 2}") + PROFILE,
        profile=people,
    )


@pytest.fixture(scope="module")
def model(data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model"
    tiny = UserBertConfig(layers=1, hidden=16, heads=2, feed_forward=32)
    config = PretrainConfig(
        model=tiny, steps=4, batch_size=4, checkpoint_every=2, held_out=0.3, learning_rate=1e-3
    )
    pretrain(data, path, preset="paper", config=config, before="2017-03-05")
    return path


def test_prepared_data_are_counted(data: PreparedData) -> None:
    text = shown(data.path)
    assert "| users | 22 |" in text
    assert "2017-03-05 00:00:00-05:00, 4 days later" in text
    assert "| frame 'log' | 27 | 26 | 1 | 0 | 0 |" in text
    assert "action types in no segment: looks (1)" in text
    assert "| long_term | 25 | 25 | 1.0 | 95.5 % |" in text
    assert "| short_term | 26 | 26 | 1.0 | 100.0 % |" in text
    assert "| long_term | 0 | 1 | 1 | 1 | 1 | 1 | 4 | 5 |" in text
    assert "| 4 to 7 | 1 | █" in text
    assert "| long_term | genre | 2 | 0 % | 0 % | bread (80.0 %), milk (20.0 %) |" in text
    assert "| short_term | genre | 2 | 0 % | 3.8 % | bread (76.9 %), milk (19.2 %) |" in text
    assert "| profile | age | 1 | 0 % | 0 % | old (100.0 %) |" in text


def test_values_of_many_actions_are_counted_in_a_sample(
    data: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PreparedData, "shards", [*data.shards, *data.shards])
    text = printed(describe_data(PreparedData.open(data.path), max_actions=30))
    assert "values of long_term: counted in 25 of 50 actions, of random users" in text


def test_words_of_a_user_are_shown(data: PreparedData) -> None:
    assert "genre: milk; price: any; hour: 0 |" in shown(data.path, "often", "2017-03-13")
    text = shown(data.path, "u0", "2017-03-01")
    assert "Words of user u0 before 2017-03-01 00:00:00-05:00: no events in the windows" in text
    with pytest.raises(InputError, match="Write the id as in the logs, such as "):
        inspect(data.path, "U0")


def test_the_card_of_a_model_describes_its_pretraining(data: PreparedData, model: Path) -> None:
    text = shown(model)
    assert "| network | 1 layers of width 16, 2 heads |" in text
    assert "| preset | paper |" in text
    assert "model.layers=1 (not 4)" in text
    assert "steps=4 (not 400000)" in text
    assert "learning_rate=0.001 (not 0.0001)" in text
    assert "model.dropout" not in text
    assert "| trained on events before | 2017-03-05 00:00:00-05:00 |" in text
    assert "| users | 22 |" in text
    assert "4 batches of 4, 16 user sequences" in text
    assert f"| data | {data.checksum[:12]} |" in text
    assert "| total |" in text
    assert "held-out loss: " in text
    assert "after 2 steps" in text
    assert "| long_term | genre | 4 | long_term/genre |" in text
    weights = sum(weight.numel() for weight in _weights(model).values())
    assert f"| weights | {weights:,}," in text


def _weights(model: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(model / "model.safetensors"))


def test_labels_are_counted_by_class_and_cutoff(data: PreparedData, tmp_path: Path) -> None:
    users = [f"u{number}" for number in range(8)]
    frame = pl.DataFrame({"user_id": users, "label": [1] * 6 + [0] * 2})
    Labels.of(frame, data).save(tmp_path / "labels.parquet")
    text = shown(tmp_path / "labels.parquet")
    assert "| kind | binary |" in text
    assert "| 1 | 6 | 75.0 % | ██████████" in text
    assert "| 0 | 2 | 25.0 % |" in text
    assert "Cut-offs: 1, from " in text
    frame.write_csv(tmp_path / "mine.csv")
    text = shown(tmp_path / "mine.csv")
    assert "a file of your own" in text
    assert "| 1 | 6 | 75.0 % |" in text
    frame.with_columns(label=pl.Series([["a", "b"], ["a"]] * 4)).write_parquet(
        tmp_path / "several.parquet"
    )
    text = shown(tmp_path / "several.parquet")
    assert "| a | 8 | 100.0 % |" in text
    assert "['a', 'b']" in text
    frame.with_columns(label=pl.Series([0.5, 1.5] * 4)).write_parquet(tmp_path / "q.parquet")
    assert "| kind | regression |" in shown(tmp_path / "q.parquet")


def test_scores_are_shown_as_quantiles_and_bars(tmp_path: Path) -> None:
    pl.DataFrame({"user_id": ["a", "b", "c"], "score": [0.0, 0.5, 1.0]}).write_parquet(
        tmp_path / "scores.parquet"
    )
    text = shown(tmp_path / "scores.parquet")
    assert "| 0.000 | 0.100 | 0.250 | 0.500 | 0.750 | 0.900 | 0.990 | 1.000 |" in text
    assert "| 0.900 to 1.000 | 1 | ██" in text


def write_vectors(file: Path, values: np.ndarray, group: int = 65_536) -> Path:
    """Write a file of embeddings of users u0, u1 and so on."""
    width = values.shape[1]
    columns = {
        "user_id": pa.array([f"u{number}" for number in range(len(values))]),
        "cutoff": pa.array([0] * len(values), pa.timestamp("us", "UTC")),
        "embedding": pa.FixedSizeListArray.from_arrays(
            pa.array(values.astype(np.float32).ravel()), width
        ),
    }
    pq.write_table(pa.table(columns), file, row_group_size=group, write_page_checksum=True)
    return file


def random_vectors(users: int = 500, width: int = 16) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((users, width))


def one_direction(values: np.ndarray) -> np.ndarray:
    return np.asarray(values * np.array([100] + [1] * (values.shape[1] - 1)))


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        (random_vectors(), "healthy"),
        (one_direction(random_vectors()), r"collapsed: .* of the variance is in one direction"),
        (random_vectors()[:1].repeat(500, axis=0), "collapsed: 100% of the variance"),
        (random_vectors() + 1000, r"collapsed: two random users have a mean cosine of 1\.0000"),
        (np.where(np.arange(500)[:, None] == 3, np.nan, random_vectors()), "broken: 1 vectors"),
        (random_vectors(100).repeat(5, axis=0), "crowded: 100% of the vectors equal another"),
    ],
    ids=["random", "one direction", "one point", "far away", "NaN", "duplicates"],
)
def test_the_verdict_names_the_problem(tmp_path: Path, values: np.ndarray, verdict: str) -> None:
    text = shown(write_vectors(tmp_path / "v.parquet", values))
    assert re.search(f"verdict: {verdict}", text), text


def test_health_equals_values_computed_by_hand() -> None:
    values = np.zeros((4, 3), np.float32)
    values[:, 0] = [3, -3, 0, 0]
    values[:, 1] = [0, 0, 3, -3]
    result = health(values)
    assert result.norms.tolist() == [3, 3, 3, 3]
    assert result.effective_rank == pytest.approx(2)
    assert result.leading[0] == pytest.approx(0.5)
    assert result.constant == 1
    assert result.zero == result.broken == result.duplicates == 0
    assert health(np.array([[1, 0], [1, 0], [0, 1], [0, 0]], np.float32)).duplicates == 0.5
    assert health(np.array([[1, 0], [0, 0]], np.float32)).zero == 1


@given(st.integers(2, 60), st.integers(1, 12), st.integers(0, 2**16))
def test_effective_rank_lies_between_one_and_the_width(users: int, width: int, seed: int) -> None:
    values = np.random.default_rng(seed).standard_normal((users, width)).astype(np.float32)
    result = health(values)
    assert 1 - 1e-6 <= result.effective_rank <= min(width, users) + 1e-6
    rotated = health(np.linalg.qr(np.random.default_rng(1).standard_normal((width, width)))[0]
                   .astype(np.float32).dot(values.T).T.copy())  # fmt: skip
    assert rotated.effective_rank == pytest.approx(result.effective_rank, rel=1e-3)
    assert health(values * 7).effective_rank == pytest.approx(result.effective_rank, rel=1e-3)


@pytest.mark.parametrize("vectors_as", ["list", "columns"])
def test_neighbours_have_the_largest_cosines(
    data: PreparedData, model: Path, tmp_path: Path, vectors_as: Any
) -> None:
    network = UserBert.from_pretrained(model)
    pairs = pairs_at(data, cutoffs("2017-03-04", "2017-03-06").tolist())
    file = tmp_path / "v.parquet"
    write_embeddings(network, data, pairs, file, vectors_as=vectors_as)
    text = shown(file, "often")
    frame = network.embed(data, cutoff="2017-03-06")
    values = frame["embedding"].to_numpy()
    users = frame["user_id"].to_list()
    own = values[users.index("often")]
    cosines = values @ own / np.linalg.norm(values, axis=1) / np.linalg.norm(own)
    order = [i for i in np.argsort(-cosines, kind="stable") if users[i] != "often"]
    assert f"| {cosines[order[0]]:.4f} |" in text
    assert text.count("| 0.") + text.count("| 1.") + text.count("| -0.") == 10
    assert "Nearest to user often before 2017-03-06" in text
    with pytest.raises(InputError, match="no vector of the user 'nobody'"):
        inspect(file, "nobody")


def test_the_health_of_many_vectors_is_that_of_a_sample(tmp_path: Path) -> None:
    file = write_vectors(tmp_path / "v.parquet", random_vectors(1000), group=50)
    text = printed(describe_vectors(file, None, max_vectors=100))
    assert "| sample | 100 at random |" in text
    assert "| vectors | 1,000 of 16 numbers |" in text


def test_a_flipped_byte_of_vectors_is_reported(
    data: PreparedData, model: Path, tmp_path: Path
) -> None:
    file = write_vectors(tmp_path / "v.parquet", random_vectors())
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"is damaged: .* Copy it again, or embed again"):
        inspect(file)


@pytest.mark.parametrize("option", [("x", None), (None, "2017-03-01")])
def test_options_that_do_not_apply_to_a_model_are_refused(
    model: Path, option: tuple[str | None, str | None]
) -> None:
    with pytest.raises(InputError, match=r"does not apply: .* is a model"):
        inspect(model, *option)


def test_histogram_bins_are_powers_of_two() -> None:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(counts_as_bars(np.array([0, 1, 2, 3, 4, 7, 8]), "words"))
    rows = [line.split()[1:6] for line in capture.get().splitlines() if "│" in line]
    assert [row[0] for row in rows] == ["0", "1", "2", "4", "8"]


def test_small_shares_are_not_shown_as_zero() -> None:
    assert [share(0, 5), share(1, 10_000), share(1, 3), share(0, 0)] == [
        "0 %", "< 0.1 %", "33.3 %", "0 %",
    ]  # fmt: skip
