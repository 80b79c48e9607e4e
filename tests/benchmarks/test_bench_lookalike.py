"""Tests of `userbert bench lookalike`."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from research.results_pages import page
from userbert.benchmarks.lookalike import make_vectors
from userbert.cli import app
from userbert.inspection.vectors import health


def test_generated_vectors_resemble_embeddings_and_are_reproducible() -> None:
    vectors, queries = make_vectors(5000)
    report = health(vectors)
    assert report.verdict == "healthy"
    assert 10 < report.effective_rank < 24
    assert 0.29 < report.cosine < 0.5
    np.testing.assert_array_equal(make_vectors(5000)[1], queries)


@pytest.mark.slow
def test_bench_lookalike_writes_a_row_per_variant(tmp_path: Path) -> None:
    output = tmp_path / "lookalike.json"
    result = CliRunner().invoke(app, ["bench", "lookalike", "--users", "20000", "-o", str(output)])
    assert result.exit_code == 0, result.output
    content = json.loads(output.read_text(encoding="utf-8"))
    exact, index = content["rows"]
    assert (exact["variant"], index["variant"]) == ("exact", "index")
    assert exact["recall"] > 0.999  # float32 may order ties differently
    assert index["recall"] > 0.98
    for row in (exact, index):
        assert row["users"] == 20_000
        assert 0 < row["ms_per_query"] <= row["p99_ms"]
        assert row["peak_memory_gib"] > 0.05
    assert "| users | variant | k | ms per query |" in page(content, "lookalike")
