"""Outputs that cannot be written, and work that ends early: told once, and nothing is left."""

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
"""Verbs that write a file, not a folder."""
QUICK = [verb for verb in WRITING if verb not in ("append", "evaluate")]


def output(verb: str, folder: Path | str = "") -> Path:
    return Path(folder) / ("new.parquet" if verb in FILES else "new")


@pytest.mark.parametrize("verb", [verb for verb in WRITING if verb != "append"])
@pytest.mark.parametrize("place", ["return.parquet", "data"])
def test_what_is_there_is_not_overwritten(shop: Shop, verb: str, place: str) -> None:
    message = shop.refuses(*WRITING[verb], "-o", place)
    assert message == f"{place} exists already. Choose another -o, or remove it first."


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
def test_where_nothing_can_be_written_is_told(
    shop: Shop, verb: str, folder: str, reason: str
) -> None:
    message = shop.refuses(*WRITING[verb], "-o", output(verb, folder))
    assert message == f"cannot write {output(verb, folder)}: {reason}. Choose another -o."


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_where_one_may_not_write_is_told(shop: Shop, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    for verb in QUICK:
        message = shop.refuses(*WRITING[verb], "-o", output(verb, tmp_path))
        assert "Permission denied" in message


@pytest.mark.parametrize("verb", sorted(FILES - {"lookalike"}))
def test_a_name_that_hides_the_format_is_told(shop: Shop, verb: str) -> None:
    message = shop.refuses(*WRITING[verb], "-o", "new.csv")
    assert "expected a name that ends in .parquet" in message
    assert "-o new.parquet" in message


def test_folders_that_do_not_exist_are_made_and_removed_with_what_failed(
    shop: Shop, tmp_path: Path
) -> None:
    target = tmp_path / "a" / "b" / "new.parquet"
    with small_files(100):
        message = shop.refuses(*WRITING["embed"], "-o", target)
    assert "files may not be that large" in message
    assert list(tmp_path.iterdir()) == []
    assert userbert(shop.folder, *WRITING["embed"], "-o", target).code == 0
    assert target.exists()


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """What a disk does that is full: bytes beyond the first ones are not taken."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("verb", QUICK)
@pytest.mark.parametrize("size", [0, 100, 3_000])
def test_a_disk_that_takes_no_more_is_told(
    shop: Shop, tmp_path: Path, verb: str, size: int
) -> None:
    target = output(verb, tmp_path)
    with small_files(size):
        done = userbert(shop.folder, *WRITING[verb], "-o", target)
    if done.code == 0:  # it was large enough
        return
    message = done.refused()
    assert message.startswith("cannot write ")
    assert "files may not be that large" in message
    assert [path.name for path in tmp_path.iterdir()] == []


@pytest.mark.parametrize("size", [100, 20_000])
def test_a_checkpoint_that_finds_no_room_is_told_and_the_run_goes_on(
    shop: Shop, tmp_path: Path, size: int
) -> None:
    command = [*WRITING["pretrain"], "-o", tmp_path / "new", "--set", "checkpoint_every=2"]
    with small_files(size):
        message = userbert(shop.folder, *command).refused()
    assert message.startswith("cannot write ")
    assert not (tmp_path / "new").exists()
    done = userbert(shop.folder, *command, "--resume")
    assert done.code == 0, done.told
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


@pytest.mark.parametrize(
    ("verb", "where"),
    [
        ("embed", "userbert.embedding.embed.embed_chunks"),
        ("lookalike", "userbert.search.lookalike.best"),
        ("evaluate", "userbert.evaluation.evaluate.collect"),
        ("pretrain", "userbert.training.loop.exchange_gradients"),
    ],
)
def test_interrupted_it_says_so_and_leaves_nothing(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, where: str
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(where, interrupt)
    done = userbert(shop.folder, *WRITING[verb], "-o", output(verb, tmp_path))
    assert done.code == 130
    assert done.told == "error: interrupted; nothing half-written was left\n"
    assert list(tmp_path.iterdir()) == []


def test_interrupted_after_a_checkpoint_a_run_says_how_it_goes_on(
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
    assert "go on by --resume" in done.told
    monkeypatch.undo()
    assert "interrupted run. Go on with it by --resume" in userbert(shop.folder, *command).refused()
    assert userbert(shop.folder, *command, "--resume").code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["embed", "evaluate"])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_killed_while_it_works_nothing_is_published(
    shop: Shop, tmp_path: Path, verb: str, how: signal.Signals
) -> None:
    target = output(verb, tmp_path)
    command = [sys.executable, "-m", "userbert", *WRITING[verb], "-o", str(target)]
    for _ in range(3):
        left = set(tmp_path.iterdir())
        run = subprocess.Popen(
            command, cwd=shop.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        while not set(tmp_path.iterdir()) - left:
            assert run.poll() is None
            time.sleep(0.001)
        # It has begun to write, and is held there, so that it cannot be done when the signal comes.
        os.killpg(run.pid, signal.SIGSTOP)
        assert not target.exists()
        os.killpg(run.pid, how)
        os.killpg(run.pid, signal.SIGCONT)
        told = run.communicate(timeout=60)[1]
        if how == signal.SIGINT and run.returncode == 0:
            return  # it came where Python passes over it, as in a callback
        assert run.returncode in (-how, 130), told
        assert not target.exists()
    if how == signal.SIGINT:
        assert list(tmp_path.iterdir()) == []
    if verb == "embed":  # which removes what was left
        assert userbert(shop.folder, *WRITING[verb], "-o", target).code == 0
        assert [path.name for path in tmp_path.iterdir()] == ["new.parquet"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["pretrain", "data", "--set", "nonsense=1"], "there is no setting 'nonsense'; known: "),
        (["pretrain", "data", "--set", "step=1"], "did you mean steps?"),
        (["pretrain", "data", "--set", "dropout=0"], "did you mean model.dropout?"),
        (["pretrain", "data", "--set", "model.heads=3"], "an even multiple of model.heads"),
        (["pretrain", "data", "--preset", "papr"], "choose one of: default, paper"),
        (["pretrain", "data", "--hide", "nofield"], "no profile field 'nofield'"),
        (["pretrain", "data", "--before", "yesterday"], "--before: expected a date or time"),
        (["pretrain", "data", "--before", "2020-01-01"], "--before, 2020-01-01"),
        (["pretrain", "data", "--from", "model", "--set", "model.layers=3"], "that of --from"),
        (["pretrain", "data", "--from", "model", "--hide", "kids"], "cannot be hidden any more"),
        (["pretrain", "data", "--at", "profiles.parquet", "--before", CUTOFF], "leave --before"),
        (["prepare", "schema.yaml", "--memory", "1GB"], "--memory: expected at least 64MiB"),
        (["prepare", "schema.yaml", "--grow"], "add --append or --vocabulary"),
    ],
)
def test_options_that_cannot_be_are_told(shop: Shop, arguments: list[str], told: str) -> None:
    assert told in shop.refuses(*arguments, "-o", "new")


@pytest.mark.parametrize("verb", ["embed", "predict"])
@pytest.mark.parametrize(
    ("cutoff", "told"),
    [
        ("yesterday", "--cutoff: expected a date or time such as 2017-09-01"),
        ("2020-01-01", "is not after the first event of data"),
        ("2031-01-01", "days after the last event of data"),
    ],
)
def test_cutoffs_that_cannot_be_are_told(shop: Shop, verb: str, cutoff: str, told: str) -> None:
    assert told in shop.refuses(*WRITING[verb], "--cutoff", cutoff, "-o", "new.parquet")


@pytest.mark.parametrize("option", ["--steps", "--seed"])
def test_numbers_that_cannot_be_are_told_by_their_option(shop: Shop, option: str) -> None:
    done = userbert(shop.folder, "pretrain", "data", "-o", "new", option, "-1")
    assert done.code == 2
    assert f"Invalid value for '{option}'" in done.told
    assert "greater than or equal to" in " ".join(done.told.replace("│", "").split())
