"""Outputs that cannot be written, and interrupted work: one message, and no files are left."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bad_input.conftest import CUTOFF, TINY, Shop, userbert
from userbert.training import loop
from userbert.training.checkpoint import save_checkpoint

WRITING: dict[str, list[str]] = {
    "prepare": ["prepare", "schema.yaml"],
    "append": ["prepare", "new.yaml", "--append", "data"],
    "label": ["label", "return", "data", "--horizon", "7d", "--cutoff", CUTOFF],
    "pretrain": ["pretrain", "data", "--steps", "4", "--set", "batch_size=8", *TINY],
    "extend": ["extend", "model", "data"],
    "embed": ["embed", "model", "data"],
    "lookalike": ["lookalike", "embeddings.parquet", "--seeds", "seeds.csv", "-k", "5"],
    "finetune": ["finetune", "model", "data", "--labels", "return.parquet", "--epochs", "1"],
    "predict": ["predict", "task", "data"],
    "evaluate": ["evaluate", "model", "data", "--labels", "return.parquet"],
}
FILES = {"label", "embed", "lookalike", "predict"}
"""Verbs whose output is a file; the others write a folder."""
QUICK = [verb for verb in WRITING if verb not in ("append", "evaluate")]


def output(verb: str, folder: Path | str = "") -> Path:
    return Path(folder) / ("new.parquet" if verb in FILES else "new")


@pytest.mark.parametrize("verb", [verb for verb in WRITING if verb != "append"])
@pytest.mark.parametrize("place", ["return.parquet", "data"])
def test_existing_output_is_not_overwritten(shop: Shop, verb: str, place: str) -> None:
    message = shop.refuses(*WRITING[verb], "-o", place)
    assert message == f"{place} exists already. Choose another output, or remove it first."


@pytest.mark.parametrize("verb", QUICK)
@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        ("events.parquet", "events.parquet is a file, not a folder"),
        ("/proc", "No such file or directory"),
        ("x" * 300, "File name too long"),
    ],
    ids=["file", "proc", "long"],
)
def test_impossible_output_path_is_reported(
    shop: Shop, verb: str, folder: str, reason: str
) -> None:
    message = shop.refuses(*WRITING[verb], "-o", output(verb, folder))
    assert message == f"cannot write {output(verb, folder)}: {reason}. Choose another output."


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_missing_write_permission_is_reported(shop: Shop, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    for verb in QUICK:
        message = shop.refuses(*WRITING[verb], "-o", output(verb, tmp_path))
        assert "Permission denied" in message


@pytest.mark.parametrize("verb", sorted(FILES - {"lookalike"}))
def test_output_name_of_another_format_is_rejected(shop: Shop, verb: str) -> None:
    message = shop.refuses(*WRITING[verb], "-o", "new.csv")
    assert "expected a name that ends in .parquet" in message
    assert "Choose new.parquet" in message


def test_missing_folders_are_created_and_removed_after_a_failure(
    shop: Shop, tmp_path: Path
) -> None:
    target = tmp_path / "a" / "b" / "new.parquet"
    with small_files(100):
        message = shop.refuses(*WRITING["embed"], "-o", target)
    assert "the file is larger than" in message
    assert list(tmp_path.iterdir()) == []
    assert userbert(shop.folder, *WRITING["embed"], "-o", target).code == 0
    assert target.exists()


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """Simulates a full disk: limits files to `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("verb", QUICK)
@pytest.mark.parametrize("size", [0, 100, 3_000])
def test_full_disk_is_reported(shop: Shop, tmp_path: Path, verb: str, size: int) -> None:
    target = output(verb, tmp_path)
    with small_files(size):
        done = userbert(shop.folder, *WRITING[verb], "-o", target)
    if done.code == 0:  # the output fits
        return
    message = done.refusal()
    assert message.startswith("cannot write ")
    assert "the file is larger than" in message
    assert [path.name for path in tmp_path.iterdir()] == []


@pytest.mark.parametrize("size", [100, 20_000])
def test_full_disk_at_a_checkpoint_is_reported_and_the_run_can_be_resumed(
    shop: Shop, tmp_path: Path, size: int
) -> None:
    command = [*WRITING["pretrain"], "-o", tmp_path / "new", "--set", "checkpoint_every=2"]
    with small_files(size):
        message = userbert(shop.folder, *command).refusal()
    assert message.startswith("cannot write ")
    assert not (tmp_path / "new").exists()
    done = userbert(shop.folder, *command, "--resume")
    assert done.code == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


@pytest.mark.parametrize(
    ("verb", "where"),
    [
        ("embed", "userbert.embedding.embed.embed_chunks"),
        ("lookalike", "userbert.search.lookalike.top_k"),
        ("evaluate", "userbert.evaluation.evaluate.collect"),
        ("pretrain", "userbert.training.loop.exchange_gradients"),
    ],
)
def test_interrupted_command_says_so_and_leaves_no_files(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, where: str
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(where, interrupt)
    done = userbert(shop.folder, *WRITING[verb], "-o", output(verb, tmp_path))
    assert done.code == 130
    assert done.stderr == "error: interrupted before the output was complete\n"
    assert list(tmp_path.iterdir()) == []


def test_run_interrupted_after_a_checkpoint_says_how_to_resume(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = []

    def interrupt_later(*arguments: object) -> None:
        save_checkpoint(*arguments)  # type: ignore[arg-type]
        saved.append(True)
        raise KeyboardInterrupt

    command = [*WRITING["pretrain"], "-o", tmp_path / "new", "--set", "checkpoint_every=2"]
    monkeypatch.setattr(loop, "save_checkpoint", interrupt_later)
    done = userbert(shop.folder, *command)
    assert done.code == 130
    assert "Continue with --resume" in done.stderr
    monkeypatch.undo()
    assert "interrupted run. Resume the run" in userbert(shop.folder, *command).refusal()
    assert userbert(shop.folder, *command, "--resume").code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["embed", "evaluate"])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_killed_command_publishes_no_output(
    shop: Shop, tmp_path: Path, verb: str, how: signal.Signals
) -> None:
    target = output(verb, tmp_path)
    command = [sys.executable, "-m", "userbert", *WRITING[verb], "-o", str(target)]
    for _ in range(3):
        before = set(tmp_path.iterdir())
        run = subprocess.Popen(
            command, cwd=shop.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        while not set(tmp_path.iterdir()) - before:
            assert run.poll() is None
            time.sleep(0.001)
        # Stop the process while it writes, so that it cannot finish before the signal.
        os.killpg(run.pid, signal.SIGSTOP)
        assert not target.exists()
        os.killpg(run.pid, how)
        os.killpg(run.pid, signal.SIGCONT)
        stderr = run.communicate(timeout=60)[1]
        if how == signal.SIGINT and run.returncode == 0:
            return  # Python ignored the signal, as in a callback
        assert run.returncode in (-how, 130), stderr
        assert not target.exists()
    if how == signal.SIGINT:
        assert list(tmp_path.iterdir()) == []
    if verb == "embed":  # it removes leftovers of killed runs
        assert userbert(shop.folder, *WRITING[verb], "-o", target).code == 0
        assert [path.name for path in tmp_path.iterdir()] == ["new.parquet"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["pretrain", "data", "--set", "nonsense=1"], "there is no setting 'nonsense'; known: "),
        (["pretrain", "data", "--set", "step=1"], "did you mean steps?"),
        (["pretrain", "data", "--set", "dropout=0"], "did you mean model.dropout?"),
        (["pretrain", "data", "--set", "model.heads=3"], "divisible by model.heads (3)"),
        (["pretrain", "data", "--preset", "papr"], "choose one of: default, paper"),
        (["pretrain", "data", "--hide", "nofield"], "no profile field 'nofield'"),
        (["pretrain", "data", "--before", "yesterday"], "before: expected a date or time"),
        (["pretrain", "data", "--before", "2020-01-01"], "before, 2020-01-01"),
        (
            ["pretrain", "data", "--from", "model", "--set", "model.layers=3"],
            "--from sets the network",
        ),
        (["pretrain", "data", "--from", "model", "--hide", "kids"], "can no longer be hidden"),
        (
            ["pretrain", "data", "--at", "profiles.parquet", "--before", CUTOFF],
            "leave `before` out",
        ),
        (["prepare", "schema.yaml", "--memory", "1GB"], "--memory: expected at least 64MiB"),
        (["prepare", "schema.yaml", "--grow"], "add --append or --vocabulary"),
    ],
)
def test_invalid_options_are_rejected(shop: Shop, arguments: list[str], expected: str) -> None:
    assert expected in shop.refuses(*arguments, "-o", "new")


@pytest.mark.parametrize("verb", ["embed", "predict"])
@pytest.mark.parametrize(
    ("cutoff", "expected"),
    [
        ("yesterday", "--cutoff: expected a date or time such as 2017-09-01"),
        ("2020-01-01", "is not after the first event of data"),
        ("2031-01-01", "days after the last event of data"),
    ],
)
def test_invalid_cutoffs_are_rejected(shop: Shop, verb: str, cutoff: str, expected: str) -> None:
    assert expected in shop.refuses(*WRITING[verb], "--cutoff", cutoff, "-o", "new.parquet")


@pytest.mark.parametrize("option", ["--steps", "--seed"])
def test_invalid_numbers_are_reported_with_their_option(shop: Shop, option: str) -> None:
    done = userbert(shop.folder, "pretrain", "data", "-o", "new", option, "-1")
    assert done.code == 2
    assert f"Invalid value for '{option}'" in done.stderr
    assert "greater than or equal to" in " ".join(done.stderr.replace("│", "").split())
