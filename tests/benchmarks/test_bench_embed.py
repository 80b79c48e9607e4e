"""Tests of `userbert bench embed`."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from synthetic import batch, model
from userbert.benchmarks.embed import Gru
from userbert.cli import app
from userbert.model.userbert import UserBertConfig

ROW = {
    "workload", "variant", "precision", "reference", "users", "users_per_s",
    "reference_users_per_s", "ratio", "peak_memory_gib",
}  # fmt: skip
CONFIG = UserBertConfig(layers=1, hidden=32, heads=2, feed_forward=32, dropout=0.0)


def test_the_gru_reads_the_words_of_a_user_and_no_padding() -> None:
    torch.manual_seed(0)
    ours = model(config=CONFIG).eval()
    padded, trimmed = (Gru(ours, trimmed=trimmed).eval() for trimmed in (False, True))
    trimmed.load_state_dict(padded.state_dict())
    users = batch([[6, 2], [0, 5], [9, 0]], seed=3)
    with torch.inference_mode():
        vectors = padded.embed(users)
        assert torch.allclose(vectors, trimmed.embed(users), atol=1e-6)
        words = [
            padded.reference.words(*numbered_segment)
            for numbered_segment in enumerate(users.segments)
        ]
        first_user_words = torch.cat(
            [segment_words[:count] for segment_words, count in zip(words, (6, 2), strict=True)]
        )
        assert torch.allclose(vectors[0], padded.gru(first_user_words[None])[1][0, 0], atol=1e-6)


@pytest.mark.slow
def test_bench_embed_writes_the_rows_of_the_design(tmp_path: Path) -> None:
    output, work = tmp_path / "embed.json", tmp_path / "work"
    work.mkdir()
    arguments = ["bench", "embed", "--users", "300", "--rounds", "1", "--memory", "300"]
    result = CliRunner().invoke(app, [*arguments, "--work", str(work), "-o", str(output)])
    assert result.exit_code == 0, result.output
    rows = json.loads(output.read_text(encoding="utf-8"))["rows"]
    assert [(row["variant"], row["precision"], row["reference"]) for row in rows] == [
        *(
            ("verb", precision, reference)
            for precision in ("float32", "bf16")
            for reference in ("hf-padded", "gru-padded", "gru-trimmed")
        ),
        ("memory", "float32", None),
    ]
    for row in rows:
        assert row.keys() == ROW
        assert row["users"] == 300
        assert row["users_per_s"] > 0
        assert row["peak_memory_gib"] > 0.1
    assert [path.name for path in work.iterdir()] == ["data-300"]
