"""Resuming `embed` into a folder: the files are those of an uninterrupted run, or it is refused."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from small_logs import buys, cutoffs, prepare_events
from userbert import folders
from userbert.data.store import PreparedData
from userbert.data.use.pairs import Pairs, pairs_at
from userbert.embedding import embedding_folder
from userbert.embedding.embed import write_embeddings
from userbert.embedding.parts import (
    AllUsers,
    Selection,
    open_part,
    split_selection,
    users_before,
)
from userbert.errors import InputError
from userbert.folders import checksum, read_json
from userbert.inspection import inspect
from userbert.model.userbert import UserBert, UserBertConfig

USERS = [f"u{number}" for number in range(9)]

write_small_parts = partial(write_embeddings, max_pairs_per_part=4)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    events = [
        buys(user, *(f"2024-03-{day:02}T12:00" for day in range(1 + number, 20, 2 + number % 3)))
        for number, user in enumerate(USERS)
    ]
    return prepare_events(tmp_path_factory.mktemp("embed"), pl.concat(events))


@pytest.fixture(scope="module")
def model(data: PreparedData) -> UserBert:
    torch.manual_seed(0)
    config = UserBertConfig(layers=1, hidden=16, heads=2, feed_forward=16)
    return UserBert(config, data.input_shape(), schema=data.schema, vocabularies=data.vocabularies)


@pytest.fixture
def everybody(data: PreparedData) -> AllUsers:
    return users_before(data, cutoffs("2024-03-06T00:00", "2024-03-21T00:00").tolist())


def checksums(folder: Path) -> dict[str, str]:
    return {path.name: checksum(path) for path in folder.iterdir()}


def test_parts_hold_all_pairs_in_order(data: PreparedData, everybody: AllUsers) -> None:
    expected = pairs_at(data, everybody.cutoffs)
    split = split_selection(data, everybody, 4)
    assert len(split) == 6  # 9 users at 2 cut-offs, 3 in each part
    opened = [open_part(data, everybody, part).pairs for part in split]
    assert np.array_equal(np.concatenate([part.rows for part in opened]), expected.rows)
    assert np.array_equal(np.concatenate([part.cutoffs for part in opened]), expected.cutoffs)


def test_a_file_and_a_folder_hold_the_same_rows(
    model: UserBert, data: PreparedData, everybody: AllUsers, tmp_path: Path
) -> None:
    written = write_small_parts(model, data, everybody, tmp_path / "x.parquet")
    assert write_small_parts(model, data, everybody, tmp_path / "x") == written
    file, folder = (
        pl.read_parquet(tmp_path / "x.parquet"),
        pl.read_parquet(tmp_path / "x/*.parquet"),
    )
    assert file.equals(folder)
    pairs = pairs_at(data, everybody.cutoffs)
    write_small_parts(model, data, pairs, tmp_path / "pairs.parquet")
    named = pl.read_parquet(tmp_path / "pairs.parquet")
    assert file.drop("embedding").equals(named.drop("embedding"))
    assert np.allclose(file["embedding"].to_numpy(), named["embedding"].to_numpy(), atol=1e-6)
    summary = read_json(tmp_path / "x" / "summary.json")
    assert (summary["kind"], summary["vectors"], summary["parts"]) == ("embeddings", written, 6)
    assert summary["checksums"].keys() == checksums(tmp_path / "x").keys() - {"summary.json"}
    inspect(tmp_path / "x")


class KilledError(BaseException):
    """Simulates the end of the process: no code of userbert catches it."""


def killing(patch: pytest.MonkeyPatch, countdown: int) -> Iterator[int]:
    """Raise `KilledError` at the n-th disk operation; yield how many were counted."""
    operations = 0

    def kill_at(target: Any, name: str) -> None:
        original = getattr(target, name)

        def wrapped(*arguments: Any, **options: Any) -> Any:
            nonlocal operations
            operations += 1
            if operations >= countdown:
                raise KilledError
            return original(*arguments, **options)

        patch.setattr(target, name, wrapped)

    for target, name in (
        (os, "fsync"), (Path, "rename"), (Path, "replace"), (Path, "mkdir"), (Path, "unlink"),
        (shutil, "rmtree"),
    ):  # fmt: skip
        kill_at(target, name)
    while True:
        yield operations


def test_a_run_killed_at_any_disk_operation_resumes_to_the_same_files(
    model: UserBert, data: PreparedData, everybody: AllUsers, tmp_path: Path
) -> None:
    write_small_parts(model, data, everybody, tmp_path / "expected")
    expected, output = checksums(tmp_path / "expected"), tmp_path / "output"
    for countdown in range(1, 200):
        with pytest.MonkeyPatch.context() as patch:
            counter = killing(patch, countdown)
            next(counter)
            with suppress(KilledError):
                write_small_parts(model, data, everybody, output)
            number = next(counter)
        if number < countdown:
            assert countdown > 20
            return
        write_small_parts(model, data, everybody, output, resume=True)
        assert checksums(output) == expected
        assert sorted(path.name for path in tmp_path.iterdir()) == ["expected", "output"]
        shutil.rmtree(output)
    pytest.fail("the run never finished")


def fill_disk_after(patch: pytest.MonkeyPatch, limit: int) -> None:
    """Let the disk be full after `limit` parts."""
    original = folders.write_json
    written: list[object] = []

    def full(*arguments: Any) -> None:
        if len(written) == limit:
            raise OSError(28, "No space left on device")
        written.append(arguments)
        original(*arguments)

    patch.setattr(embedding_folder, "write_json", full)


def test_a_full_disk_is_reported_and_finished_parts_are_kept(
    model: UserBert,
    data: PreparedData,
    everybody: AllUsers,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "x"
    with pytest.MonkeyPatch.context() as patch:
        fill_disk_after(patch, 2)
        with pytest.raises(InputError, match=r"cannot write .*x: its disk is full"):
            write_small_parts(model, data, everybody, output)
    work = tmp_path / ".x.embedding"
    assert "holds 2 parts of the vectors. Continue with --resume" in capsys.readouterr().err
    before = {path: path.stat().st_mtime_ns for path in (work / "embeddings").iterdir()}
    with pytest.raises(InputError, match="Resume the run, or remove the folder"):
        write_small_parts(model, data, everybody, output)
    write_small_parts(model, data, everybody, output, resume=True)
    kept = [
        path for path, mtime in before.items() if (output / path.name).stat().st_mtime_ns == mtime
    ]
    assert len(kept) == 2
    assert not work.exists()


def interrupted(model: UserBert, data: PreparedData, everybody: AllUsers, output: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        fill_disk_after(patch, 2)
        with suppress(InputError):
            write_small_parts(model, data, everybody, output)
    return embedding_folder.work_folder(output)


def test_a_run_with_other_settings_is_not_resumed(
    model: UserBert, data: PreparedData, everybody: AllUsers, tmp_path: Path
) -> None:
    output = tmp_path / "x"
    work = interrupted(model, data, everybody, output)
    other = UserBert(model.config, model.shape, schema=data.schema, vocabularies=data.vocabularies)
    pairs = Pairs(np.array([0]), cutoffs("2024-03-21T00:00"))

    def refused(
        name: str, network: UserBert, data: PreparedData, selection: Selection, **options: Any
    ) -> None:
        with pytest.raises(InputError, match=rf"other settings \({name} differ\)"):
            write_small_parts(network, data, selection, output, resume=True, **options)

    def refuse_all() -> None:
        refused("model", other, data, everybody)
        refused("cutoffs", model, data, AllUsers(everybody.cutoffs[:1]))
        refused("cutoffs, at", model, data, pairs)
        refused("precision", model, data, everybody, precision="bf16")
        refused("format", model, data, everybody, vectors_as="columns")

    refuse_all()
    assert len(list((work / "done").iterdir())) == 2
    written = write_small_parts(model, data, everybody, output, resume=True)
    refuse_all()
    before = checksums(output)
    assert write_small_parts(model, data, everybody, output, resume=True) == written
    assert checksums(output) == before
    with pytest.raises(InputError, match="exists already"):
        write_small_parts(model, data, everybody, output)


def test_a_damaged_part_is_named_and_computed_again(
    model: UserBert,
    data: PreparedData,
    everybody: AllUsers,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_small_parts(model, data, everybody, tmp_path / "expected")
    work = interrupted(model, data, everybody, tmp_path / "x")
    part = work / "embeddings" / "part-00001.parquet"
    part.write_bytes(part.read_bytes()[:-1])
    write_small_parts(model, data, everybody, tmp_path / "x", resume=True)
    assert f"{part} is damaged; it is computed again" in capsys.readouterr().err.replace("\n", "")
    assert checksums(tmp_path / "x") == checksums(tmp_path / "expected")


def test_an_incomplete_folder_is_refused_with_advice(
    model: UserBert, data: PreparedData, everybody: AllUsers, tmp_path: Path
) -> None:
    work = interrupted(model, data, everybody, tmp_path / "x")
    for place in (work, work / "embeddings"):
        with pytest.raises(InputError) as error:
            inspect(place)
        assert f"userbert embed MODEL DATA -o {tmp_path / 'x'} --resume" in str(error.value)
    write_small_parts(model, data, everybody, tmp_path / "x", resume=True)
    (tmp_path / "x" / "part-00003.parquet").unlink()
    with pytest.raises(InputError, match=r"part-00003.parquet is missing: .* is not complete"):
        inspect(tmp_path / "x")
    (tmp_path / "x" / "summary.json").unlink()
    with pytest.raises(InputError, match=r"has no summary\.json, which is written last"):
        inspect(tmp_path / "x")
    with pytest.raises(InputError, match=r"has no summary\.json, which is written last"):
        write_small_parts(model, data, everybody, tmp_path / "x", resume=True)


def test_a_run_that_writes_one_file_cannot_be_resumed(
    model: UserBert, data: PreparedData, everybody: AllUsers, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"Choose a folder, such as -o .*/x, or leave --resume"):
        write_small_parts(model, data, everybody, tmp_path / "x.parquet", resume=True)


@pytest.mark.slow
def test_a_killed_command_resumes_when_run_again(
    model: UserBert, data: PreparedData, tmp_path: Path
) -> None:
    """Sends `kill -9` to the command line, whose parts are small and slow."""
    model.save_pretrained(tmp_path / "model")
    arguments = ["embed", str(tmp_path / "model"), str(data.path), "--resume", "-o"]
    slow = (
        "import time, sys; from functools import partial; from userbert.embedding import embed;"
        "embed.write_embeddings = partial(embed.write_embeddings, max_pairs_per_part=2);"
        "add = embed.add_part; embed.add_part = lambda *a: (time.sleep(.2), add(*a))[1];"
        "from userbert.cli import main; sys.argv = ['userbert', *sys.argv[1:]]; main()"
    )
    killed = 0
    while not (tmp_path / "x").exists():
        run = subprocess.Popen([sys.executable, "-c", slow, *arguments, str(tmp_path / "x")])
        before = embedding_folder.count_finished(tmp_path / ".x.embedding")
        while run.poll() is None:
            if embedding_folder.count_finished(tmp_path / ".x.embedding") > before and killed < 2:
                time.sleep(0.1)
                run.send_signal(signal.SIGKILL)
                killed += 1
                break
            time.sleep(0.01)
        assert run.wait(60) in (0, -signal.SIGKILL)
    assert killed == 2
    subprocess.run(
        [sys.executable, "-c", slow, *arguments, str(tmp_path / "uninterrupted")], check=True
    )
    assert checksums(tmp_path / "x") == checksums(tmp_path / "uninterrupted")
