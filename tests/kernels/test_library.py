"""The library of kernels: whether it loads, and the memory that its calls reuse."""

import shutil
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from userbert import kernels
from userbert.kernels import Blocks
from userbert.model.encoder import Encoder


@pytest.fixture
def _cleared_caches() -> Iterator[None]:
    for cached in (kernels.library, kernels._warn_outdated):
        cached.cache_clear()
    yield
    kernels.library.cache_clear()


@pytest.mark.usefixtures("_cleared_caches")
def test_encoder_runs_without_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "find_spec", lambda _: None)
    assert not kernels.available()
    encoder = Encoder(layers=1, hidden=64, heads=4, feed_forward=64, dropout=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        encoder(torch.randn(5, 64), torch.tensor([2, 3])).sum().backward()
    assert encoder.blocks[0].widen.weight.grad is not None


@pytest.mark.usefixtures("_cleared_caches")
def test_library_of_another_platform_is_not_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "library.so").write_bytes(b"another platform")
    spec = ModuleSpec("library", None, origin=str(tmp_path / "library.so"))
    monkeypatch.setattr(kernels, "find_spec", lambda _: spec)
    assert not kernels.available()


@pytest.mark.usefixtures("_cleared_caches")
@pytest.mark.skipif(not kernels.available(), reason="no kernels on this machine")
def test_library_built_from_other_sources_is_not_loaded_and_warns(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    built = find_spec(f"userbert.kernels.{kernels.BUILDS[0]}")
    assert built is not None
    assert built.origin is not None
    shutil.copy(built.origin, tmp_path / "library.so")
    (tmp_path / "newer.c").write_text("int x;")
    spec = ModuleSpec("library", None, origin=str(tmp_path / "library.so"))
    monkeypatch.setattr(kernels, "find_spec", lambda name: spec)
    assert kernels.load(kernels.BUILDS[0]) is None
    assert "built from other sources" in capsys.readouterr().err


@pytest.mark.usefixtures("_cleared_caches")
def test_library_without_a_digest_of_its_sources_is_not_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernels, "find_spec", lambda _: find_spec("_ctypes"))
    assert kernels.library() is None


def test_memory_is_reused_but_never_held_twice() -> None:
    blocks = Blocks()
    first = blocks.take(1000)
    second = blocks.take(1000)
    assert first.address != second.address
    address = first.address
    del first
    assert blocks.take(900).address == address
    assert blocks.take(10**6).address != second.address
