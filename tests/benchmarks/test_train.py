"""Tests of `userbert bench train`."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from userbert.benchmarks.train import useful_gflop
from userbert.benchmarks.workloads import WORKLOADS, draw_batches
from userbert.cli import app

ROW = {
    "workload", "variant", "reference", "ours_ms", "reference_ms", "spread_ms", "ratio",
    "users_per_s", "gflops", "gemm_gflops", "bandwidth_gbs", "hours_400k", "peak_memory_gib",
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "long_term", "short_term"),
    [
        ("sparse", (12, 20), (2, 2.2)),
        ("daily", (12, 20), (5, 15.6)),
        ("full", (128, 213), (128, 213)),
    ],
)
def test_workload_has_its_mean_words_and_actions(
    name: str, long_term: tuple[float, float], short_term: tuple[float, float]
) -> None:
    batches = draw_batches(WORKLOADS[name])
    users = sum(map(len, batches))
    for number, expected in enumerate((long_term, short_term)):
        segments = [batch.segments[number] for batch in batches]
        words = sum(len(segment.positions) for segment in segments) / users
        actions = sum(segment.ids.shape[1] for segment in segments) / users
        assert (words, actions) == pytest.approx(expected, rel=0.08)


def test_useful_work_is_counted_without_padding() -> None:
    batches = draw_batches(WORKLOADS["full"])[:1]
    # By hand: 16 users with 261 tokens, 4 blocks with 12 H² products per token, and attention.
    tokens = 16 * 261
    encoder = 4 * (2 * tokens * 12 * 128**2 + 4 * 16 * 261**2 * 128)
    # 38 of 256 words are selected, half of them in each segment.
    heads = 2 * 16 * 19 * 128 * (97_355 + 51_199)
    assert useful_gflop(batches, "exact") == pytest.approx(3 * (encoder + heads) / 1e9, rel=0.05)


@pytest.mark.slow
def test_bench_train_writes_the_rows_of_the_design(tmp_path: Path) -> None:
    output = tmp_path / "train.json"
    arguments = ["bench", "train", "--workload", "sparse", "--rounds", "1", "--batches", "1"]
    result = CliRunner().invoke(app, [*arguments, "-o", str(output)])
    assert result.exit_code == 0, result.output
    content = json.loads(output.read_text(encoding="utf-8"))
    assert {(row["variant"], row["reference"]) for row in content["rows"]} == {
        (variant, reference)
        for variant in ("exact", "sampled")
        for reference in ("hf-padded", "hf-trimmed-bf16")
    }
    for row in content["rows"]:
        assert set(row) == ROW
        assert row["ratio"] == pytest.approx(row["reference_ms"] / row["ours_ms"], rel=0.05)
    assert content["made"]["commit"]
