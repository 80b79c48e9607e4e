"""Pretraining from prepared data to a model folder."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from small_logs import SCHEMA, instant, log, prepare_events
from userbert.data.store import PreparedData
from userbert.data.use.pairs import pairs_at
from userbert.errors import InputError, ModelError
from userbert.model.userbert import UserBert, UserBertConfig
from userbert.training.checkpoint import METRICS_FILE
from userbert.training.distributed import Processes
from userbert.training.pretrain import fingerprint, pretrain, split_pairs
from userbert.training.settings import PRESETS, PretrainConfig, configure
from userbert.training.validation import is_held_out

TINY = PretrainConfig(
    model=UserBertConfig(layers=1, hidden=16, heads=2, feed_forward=32),
    steps=6,
    batch_size=8,
    learning_rate=1e-2,
    held_out=0.2,
    checkpoint_every=3,
)
PROFILE = "profile: {path: p.csv, fields: {age: {column: age}, kids: {column: kids}}}\n"
USERS = 40


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    rng = np.random.default_rng(0)
    days = pl.datetime_range(
        pl.datetime(2024, 1, 1, 12), pl.datetime(2024, 3, 1, 12), "1d", eager=True
    ).dt.strftime("%Y-%m-%dT%H:%M")
    events = [
        (f"u{user}", str(days[int(day)]), "buy", str(rng.choice(["a", "b", "c"])), float(price))
        for user in range(USERS)
        for day, price in zip(rng.integers(0, 60, 12), rng.random(12), strict=True)
    ]
    users = [f"u{user}" for user in range(USERS)]
    profile = pl.DataFrame({"user": users, "age": ["old", "new"] * 20, "kids": ["0", "1"] * 20})
    return prepare_events(
        tmp_path_factory.mktemp("data"), log(*events), SCHEMA + PROFILE, profile=profile
    )


def test_paper_preset_has_the_papers_settings() -> None:
    paper = PRESETS["paper"]
    assert (paper.steps, paper.batch_size, paper.learning_rate) == (400_000, 16, 1e-4)
    assert paper.model == UserBertConfig(layers=4, hidden=128, heads=4)


def test_no_users_id_is_in_a_model_folder(tmp_path: Path) -> None:
    users = [f"somebody-{number}" for number in range(12)]
    log_of_all = log(*((user, "2024-01-01T12:00", "buy", "a", 1.0) for user in users))
    own = prepare_events(tmp_path, log_of_all)
    at = pl.DataFrame({"user_id": users, "cutoff": "2024-01-02"})
    pretrain(own, tmp_path / "model", config=TINY.model_copy(update={"held_out": 0}), at=at)
    for file in (tmp_path / "model").rglob("*"):
        assert b"somebody" not in file.read_bytes(), file


def test_model_folder_holds_the_record_and_the_work_folder_is_gone(
    data: PreparedData, tmp_path: Path
) -> None:
    output = tmp_path / "model"
    model = pretrain(data, output, preset="paper", config=TINY, seed=3, before="2024-02-15")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    loaded = UserBert.from_pretrained(output)
    record = loaded.record
    assert record == json.loads(json.dumps(model.record))
    assert record["before"] == instant("2024-02-15T00:00")
    assert (record["preset"], record["seed"], record["config"]["steps"]) == ("paper", 3, 6)
    assert record["data"] == data.checksum
    assert record["validation"]["loss"] > 0
    assert record["pairs"] + record["held_out_pairs"] == USERS
    lines = [json.loads(line) for line in (output / METRICS_FILE).read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 3, 6, 6]
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, loaded.state_dict()[name])


def test_same_seed_gives_the_same_weights_and_another_seed_others(data: PreparedData) -> None:
    first, again, other = (pretrain(data, config=TINY, seed=seed) for seed in (1, 1, 2))
    weights = [model.embedding.tables.weight for model in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_keep_position_changes_the_weights(data: PreparedData) -> None:
    kept = TINY.model_copy(update={"keep_position": True})
    weights = [pretrain(data, config=config).embedding.tables.weight for config in (TINY, kept)]
    assert not torch.equal(*weights)


def test_interrupted_run_resumes_to_the_same_model(
    data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = pretrain(data, config=TINY, seed=1)
    output = tmp_path / "model"
    with monkeypatch.context() as dying:
        dying.setattr(UserBert, "write", _die)
        with pytest.raises(KeyboardInterrupt):
            pretrain(data, output, config=TINY, seed=1)
    assert not output.exists()
    with pytest.raises(InputError, match="Resume the run, or remove the folder"):
        pretrain(data, output, config=TINY, seed=1)
    with pytest.raises(InputError, match=r"other settings \(seed differ"):
        pretrain(data, output, config=TINY, seed=2, resume=True)
    for _ in range(2):  # the second time there is nothing left to do
        resumed = pretrain(data, output, config=TINY, seed=1, resume=True)
        for name, weight in expected.state_dict().items():
            assert torch.equal(weight, resumed.state_dict()[name])
    with pytest.raises(InputError, match=r"exists already, made with other settings \(seed"):
        pretrain(data, output, config=TINY, seed=2, resume=True)


def _die(model: UserBert, folder: Path) -> None:
    raise KeyboardInterrupt


def test_hidden_fields_are_never_seen(data: PreparedData) -> None:
    model = pretrain(data, config=TINY, hide=["kids"])
    assert [field.name for field in model.shape.profile] == ["age"]
    assert model.record["hidden"] == ["kids"]
    with pytest.raises(InputError, match="no profile field 'income'"):
        pretrain(data, config=TINY, hide=["income"])


def test_cutoffs_of_users_are_recorded_by_their_fingerprint(data: PreparedData) -> None:
    at = pl.DataFrame(
        {"user_id": ["u1", "u2", "u3"], "cutoff": ["2024-02-20", "2024-02-21", "2024-02-10"]}
    )
    config = TINY.model_copy(update={"held_out": 0.0})
    model = pretrain(data, config=config, at=at)
    assert model.record["before"] == instant("2024-02-21T00:00")
    assert model.record["at"] == pretrain(data, config=config, at=at.reverse()).record["at"]
    assert model.record["pairs"] == 3
    pairs = pairs_at(data, [data.default_cutoff])
    assert fingerprint(data, pairs) != model.record["at"]


def test_from_model_keeps_that_model_unchanged_and_records_its_bound(
    data: PreparedData,
) -> None:
    first = pretrain(data, config=TINY, before="2024-02-25")
    before = first.embedding.cls.detach().clone()
    second = pretrain(data, config=TINY, before="2024-02-15", from_model=first)
    assert torch.equal(first.embedding.cls, before)
    assert not torch.equal(second.embedding.cls, before)
    assert second.record["before"] == instant("2024-02-25T00:00")
    assert second.record["from"]["before"] == instant("2024-02-25T00:00")


def test_output_that_exists_is_refused_before_any_work(data: PreparedData, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exists already"):
        pretrain(data, tmp_path, config=TINY)


def test_nothing_before_the_cutoff_is_refused(data: PreparedData) -> None:
    with pytest.raises(InputError, match=r"before, .* is not after the first event"):
        pretrain(data, config=TINY, before="2020-01-01")


def test_held_out_users_are_the_same_whatever_the_cutoff(data: PreparedData) -> None:
    late, early = (
        pairs_at(data, [instant(cutoff)]).rows for cutoff in ("2024-02-25", "2024-02-15")
    )
    held_out = set(late[is_held_out(data, late, 0.2)].tolist())
    assert 0 < len(held_out) < len(late)
    assert set(early[is_held_out(data, early, 0.2)].tolist()) == held_out & set(early.tolist())


def test_settings_change_a_preset() -> None:
    config = configure("paper", ["steps=10", "model.layers=2", "precision=bf16"])
    assert (config.steps, config.model.layers, config.precision) == (10, 2, "bf16")
    assert config.batch_size == 16


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("step=10", "did you mean steps"),
        ("model.layer=1", "did you mean model.layers"),
        ("steps", "expected key=value"),
        ("steps=many", "steps: .* found 'many'"),
        ("steps=0", "greater than or equal to 1"),
        ("model=big", "such as model.layers"),
        ("heads=2", "did you mean model.heads"),
        ("model.heads=3", r"expected an even number divisible by model.heads \(3\), found 128"),
        ("samples=100", "also set softmax=sampled"),
        ("objectives.words=0", "all weights are 0"),
        ("least_hidden=0.9", "more than most_hidden"),
        ("objectives.future=1", "also set cutoffs=8"),
        ("start_from_counts=true", "also set model.summary=true"),
    ],
)
def test_invalid_settings_are_refused(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        configure("paper", [override])


EVERYTHING = [
    "steps=12", "batch_size=8", "learning_rate=1e-2", "decay=0.5", "held_out=0.2", "model.layers=1",
    "model.hidden=16", "model.heads=2", "model.feed_forward=16", "model.attribute_width=8",
    "model.pool=cls", "model.summary=true", "model.word_sizes=true", "objectives.words=0.1",
    "objectives.hidden=1", "objectives.future=1", "cutoffs=4", "horizon_days=7",
    "start_from_counts=true", "softmax=sampled", "samples=2",
]  # fmt: skip
"""Settings that turn on every objective and part of the model at once."""


def test_candidates_learn_nothing_from_after_the_bound(tmp_path: Path) -> None:
    schema = SCHEMA + "fit_before: 2024-02-01\n"
    rng = np.random.default_rng(1)
    early = [
        (f"u{user}", f"2024-01-{day:02d}T12:00", "buy", str(rng.choice(["a", "b", "c"])), 1.0)
        for user in range(USERS)
        for day in rng.integers(1, 32, 8)
    ]
    late = [(f"u{user}", "2024-02-01T12:00", "buy", "a", 2.0) for user in range(USERS)]
    config = configure("paper", EVERYTHING)
    models = [
        pretrain(prepare_events(tmp_path, log(*events), schema), config=config)
        for events in (early, early + late)
    ]
    assert models[0].record["validation"]["future long_term active"] > 0
    for name, weight in models[0].state_dict().items():
        assert torch.equal(weight, models[1].state_dict()[name]), name
    models[0].save_pretrained(tmp_path / "model")
    loaded = UserBert.from_pretrained(tmp_path / "model")
    assert loaded.config == models[0].config
    assert loaded.config.tells_future


def test_from_model_needs_the_heads_of_the_objectives(data: PreparedData) -> None:
    plain = pretrain(data, config=TINY)
    with pytest.raises(InputError, match=r"no heads for objectives\.hidden"):
        pretrain(data, config=configure("paper", EVERYTHING), from_model=plain)


def test_unknown_preset_names_the_known_ones(data: PreparedData) -> None:
    with pytest.raises(InputError, match="choose one of: default, paper"):
        pretrain(data, preset="best")


def test_embeddings_of_a_pretrained_model_refuse_data_with_other_ids(
    data: PreparedData, tmp_path: Path
) -> None:
    model = pretrain(data, config=TINY)
    other = prepare_events(tmp_path, log(("x", "2024-01-01T12:00", "buy", "z", 1.0)), SCHEMA)
    with pytest.raises(ModelError, match="--vocabulary MODEL"):
        model.embed(other)


def test_processes_share_the_users_in_contiguous_ranges(data: PreparedData) -> None:
    pairs = pairs_at(data, [data.default_cutoff])
    learned, held_out = split_pairs(data, pairs, 0.2, Processes())
    shares = [split_pairs(data, pairs, 0.2, Processes(rank, 3)) for rank in range(3)]
    assert np.concatenate([own for own, _ in shares]).tolist() == learned.tolist()
    assert np.concatenate([own for _, own in shares]).tolist() == held_out.tolist()


def test_more_processes_than_users_of_a_batch_are_refused(data: PreparedData) -> None:
    with pytest.raises(InputError, match="8 users cannot be split over 9 processes"):
        pretrain(data, config=TINY, processes=Processes(0, 9))


def test_order_of_the_pairs_changes_nothing(data: PreparedData) -> None:
    at = pl.DataFrame({"user_id": [f"u{user}" for user in range(USERS)]})
    first, second = (pretrain(data, config=TINY, at=frame) for frame in (at, at.reverse()))
    assert torch.equal(first.embedding.tables.weight, second.embedding.tables.weight)
