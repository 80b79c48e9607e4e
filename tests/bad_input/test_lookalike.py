"""Invalid embeddings and seeds: one message each, and no output."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from command_line import Userbert
from userbert.folders import write_summary

FRAME = pl.DataFrame(
    {"user_id": ["a", "b", "c"], "embedding": [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]},
    schema_overrides={"embedding": pl.List(pl.Float32)},
).with_columns(pl.lit("2024-03-15").str.to_datetime(time_zone="UTC").alias("cutoff"))
COMMAND = ("lookalike", "v.parquet", "--seeds", "seeds.csv", "-k", 2, "-o", "list.csv")


@pytest.fixture
def refusal(userbert: Userbert, tmp_path: Path) -> Callable[..., str]:
    def run(frame: pl.DataFrame = FRAME, seeds: str = "user_id\na\n", *command: Any) -> str:
        frame.write_parquet(tmp_path / "v.parquet")
        (tmp_path / "seeds.csv").write_text(seeds)
        return userbert(*(command or COMMAND)).refusal

    return run


def vectors(*values: Any, kind: Any = None) -> pl.DataFrame:
    return FRAME.with_columns(pl.Series("embedding", values, kind or pl.List(pl.Float32)))


INVALID: dict[str, tuple[pl.DataFrame, str]] = {
    "no user_id": (
        FRAME.rename({"user_id": "user"}),
        "user, embedding, cutoff: user_id is missing",
    ),
    "no cutoff": (FRAME.drop("cutoff"), "found user_id, embedding: cutoff is missing"),
    "no vectors": (FRAME.drop("embedding"), "embedding, or e0, e1 … is missing"),
    "a gap": (
        FRAME.drop("embedding").with_columns(pl.lit(1.0).alias("e0"), pl.lit(1.0).alias("e2")),
        "expected a column e1, found e2",
    ),
    "no rows": (FRAME.clear(), "expected vectors, found no rows"),
    "other widths": (
        vectors([1.0, 0.0], [1.0], [1.0, 1.0]),
        "v.parquet, row 2, column embedding: expected 2 numbers, found 1",
    ),
    "no vector": (vectors([1.0], None, [1.0]), "row 2, column embedding: expected a vector, found"),
    "no number": (vectors([1.0], [None], [1.0]), "expected no missing number, found 1 missing"),
    "empty vectors": (vectors([], [], []), "expected numbers, found empty lists"),
    "words": (vectors(["x"], ["y"], ["z"], kind=pl.List(pl.String)), "expected numbers, found"),
    "numbers": (vectors(1.0, 2.0, 3.0, kind=pl.Float32), "expected lists of numbers, found float"),
    "NaN": (vectors([1.0], [float("nan")], [1.0]), "the vector of user b holds NaN or infinity"),
    "huge": (vectors([1.0], [1e300], [1.0], kind=pl.List(pl.Float64)), "user b holds NaN or inf"),
    "no id": (
        FRAME.with_columns(pl.Series("user_id", ["a", None, "c"])),
        "row 2, column user_id: expected a value, found none",
    ),
    "twice": (
        FRAME.with_columns(pl.Series("user_id", ["a", "b", "b"])),
        "user b has several vectors at the cut-off 2024-03-15",
    ),
    "seeds alone": (FRAME.head(1), "expected users who are neither seeds nor excluded, found none"),
    "zero seed": (vectors([0.0], [1.0], [1.0]), "none of 1 seeds has a vector"),
}


@pytest.mark.parametrize(("frame", "expected"), INVALID.values(), ids=INVALID)
def test_invalid_embeddings_are_rejected(
    refusal: Callable[..., str], frame: pl.DataFrame, expected: str
) -> None:
    assert expected in refusal(frame)


@pytest.mark.parametrize(
    ("seeds", "expected"),
    [
        ("user_id\n", "seeds: expected at least one user, found none"),
        ("user_id\n\n", "seeds: expected at least one user, found none"),
        ("", "seeds.csv: expected a table, found an empty file"),
        ("user\na\n", "seeds.csv: expected a column user_id, found user"),
        ("user_id\nA\nB\n", "none of 2 seeds has a vector in v.parquet that is not zero: A, B."),
    ],
)
def test_invalid_seeds_are_rejected(refusal: Callable[..., str], seeds: str, expected: str) -> None:
    assert expected in refusal(FRAME, seeds)


def test_invalid_paths_and_parts_are_rejected(refusal: Callable[..., str], tmp_path: Path) -> None:
    assert "list.xlsx: expected a name that ends in .parquet or .csv" in refusal(
        FRAME, "user_id\na\n", *COMMAND[:-1], "list.xlsx"
    )
    assert "seeds.csv exists already" in refusal(FRAME, "user_id\na\n", *COMMAND[:-1], "seeds.csv")
    assert "nowhere: expected a Parquet file or a folder of embeddings" in refusal(
        FRAME, "user_id\na\n", "lookalike", "nowhere", *COMMAND[2:]
    )
    assert "no.csv" in refusal(FRAME, "user_id\na\n", *COMMAND, "--exclude", "no.csv")
    folder = tmp_path / "parts"
    folder.mkdir()
    FRAME.write_parquet(folder / "part-00000.parquet")
    other = FRAME.with_columns(pl.Series("embedding", [[1.0]] * 3, pl.List(pl.Float32)))
    other.with_columns(pl.col("user_id") + "x").write_parquet(folder / "part-00001.parquet")
    write_summary(folder, "embeddings", format=1, vectors=6, parts=2)
    command = ("lookalike", "parts", *COMMAND[2:])
    assert "expected vectors of 2 numbers as in parts/part-00000.parquet, found 1" in refusal(
        FRAME, "user_id\na\n", *command
    )
    assert "expected vectors of 2 numbers" in refusal(FRAME, "user_id\na\nax\n", *command)
    columns = FRAME.drop("embedding").with_columns(pl.lit(1.0).alias("e0"))
    columns.write_parquet(folder / "part-00001.parquet")
    assert "expected vectors in embedding as in" in refusal(FRAME, "user_id\na\n", *command)


def test_damaged_embeddings_are_rejected(userbert: Userbert, tmp_path: Path) -> None:
    (tmp_path / "seeds.csv").write_text("user_id\na\n")
    FRAME.write_parquet(tmp_path / "v.parquet")
    content = (tmp_path / "v.parquet").read_bytes()
    for damaged in (content[:-20], content[:50] + content[80:], b"user_id,cutoff\n"):
        (tmp_path / "v.parquet").write_bytes(damaged)
        assert "v.parquet is damaged: " in userbert(*COMMAND).refusal


def test_list_of_zero_users_is_rejected(userbert: Userbert) -> None:
    done = userbert(*COMMAND[:4], "-k", 0, "-o", "list.csv")
    assert done.code == 2
    assert "Invalid value for '-k'" in done.error


def test_invalid_arguments_are_rejected_in_python() -> None:
    import userbert as ub

    with pytest.raises(ub.InputError, match="at least 1, found 0"):
        ub.lookalike(FRAME, ["a"], 0)
    with pytest.raises(ub.InputError, match="expected one of linear, centroid, nearest"):
        ub.lookalike(FRAME, ["a"], 1, by="best")  # type: ignore[arg-type]
    assert np.isfinite(ub.lookalike(FRAME, ["a"], 1)["score"][0])
