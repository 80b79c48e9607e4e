"""The encoder in C returns the results of PyTorch's operations.

They agree within the rounding of bf16, and in float32 within the order of sums.
"""

import copy
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from userbert import kernels
from userbert.model.encoder import Encoder


@pytest.fixture(autouse=True, params=kernels.BUILDS)
def build(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    library = kernels.load(request.param)
    if library is None:
        pytest.skip("not built, or this processor cannot run it")
    monkeypatch.setattr(kernels, "library", lambda: library)
    return str(request.param)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def encoder(
    layers: int = 2,
    hidden: int = 128,
    heads: int = 4,
    feed_forward: int = 256,
    dropout: float = 0.1,
) -> Encoder:
    torch.manual_seed(0)
    model = Encoder(layers, hidden, heads, feed_forward, dropout)
    for name, weight in model.named_parameters():
        torch.nn.init.normal_(weight, float(name.endswith("norm.weight")), 0.06)
    return model


def encode(model: Encoder, lengths: Tensor, way: str) -> dict[str, Tensor]:
    """Return float32 vectors and all gradients for fixed tokens and keys."""
    torch.manual_seed(int(lengths.sum()))
    shape = (int(lengths.sum()), model.blocks[0].narrow.out_features)
    tokens = torch.randn(shape, requires_grad=True)
    keys = torch.randint(-(2**31), 2**31, shape[:1], dtype=torch.int32)
    model.zero_grad()
    model.fused = way == "kernel"
    with torch.autocast("cpu", torch.bfloat16, enabled=way != "float32"):
        vectors = model(tokens, lengths, keys)
    assert vectors.dtype == torch.float32
    (vectors * torch.randn(shape)).sum().backward()
    assert tokens.grad is not None
    gradients = {name: weight.grad for name, weight in model.named_parameters()}
    assert None not in gradients.values()
    return {"vectors": vectors.detach(), "tokens": tokens.grad, **gradients}


def relative_error(actual: Tensor, exact: Tensor) -> float:
    return float((actual - exact).norm() / exact.norm())


def assert_near(model: Encoder, lengths: list[int]) -> None:
    """Check that vectors and gradients of the kernel are within bf16's rounding of float32."""
    counts = torch.tensor(lengths)
    exact = encode(model, counts, "float32")
    actual = encode(model, counts, "kernel")
    for name, value in exact.items():
        assert relative_error(actual[name], value) < 0.015, name
        # No bias: the error has no component along the value itself.
        scale = (actual[name] * value).sum() / value.square().sum()
        assert float(scale) == pytest.approx(1, abs=0.006), name


@pytest.mark.parametrize(
    "lengths",
    [[1], [2], [1, 1, 1], [257], [19, 7, 40, 1, 2], [261, 3, 260], [600, 1], [3] * 300],
    ids=lambda lengths: "-".join(map(str, lengths[:5])),
)
def test_vectors_masks_and_gradients_equal_those_of_pytorch(lengths: list[int]) -> None:
    assert_near(encoder(), lengths)


@settings(max_examples=15)
@given(st.lists(st.integers(1, 70), min_size=1, max_size=40), st.sampled_from([1, 2, 5]))
def test_vectors_equal_pytorchs_for_any_lengths_and_number_of_threads(
    lengths: list[int], threads: int
) -> None:
    torch.set_num_threads(threads)
    assert_near(encoder(layers=1), lengths)


@pytest.mark.parametrize(
    ("hidden", "heads", "feed_forward"), [(64, 4, 64), (192, 4, 320), (256, 2, 128)]
)
def test_vectors_equal_pytorchs_for_other_model_sizes(
    hidden: int, heads: int, feed_forward: int
) -> None:
    assert_near(encoder(1, hidden, heads, feed_forward), [5, 33, 17])


def test_error_is_no_larger_than_that_of_autocast() -> None:
    model, lengths = encoder(layers=4, feed_forward=512), torch.tensor([20, 5, 31, 64])
    exact, actual, cast = (encode(model, lengths, way) for way in ("float32", "kernel", "autocast"))
    for name, value in exact.items():
        limit = 1.3 * relative_error(cast[name], value) + 1e-6
        assert relative_error(actual[name], value) < limit, name


def test_results_repeat_bit_for_bit_and_forward_on_any_number_of_threads() -> None:
    model, lengths = encoder(), torch.tensor([20, 5, 31, 64, 200, 100])
    first, second = (encode(model, lengths, "kernel") for _ in range(2))
    torch.set_num_threads(1)
    single = encode(model, lengths, "kernel")
    for name, value in first.items():
        assert torch.equal(second[name], value), name
    assert torch.equal(single["vectors"], first["vectors"])
    assert torch.equal(single["tokens"], first["tokens"])


def test_users_alone_and_in_any_order_get_the_same_vectors() -> None:
    model, lengths = encoder().eval(), torch.tensor([20, 5, 31])
    parts = torch.split(torch.randn(56, 128), [20, 5, 31])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        together = model(torch.cat(parts), lengths).split(lengths.tolist())
        reversed_order = model(torch.cat(parts[::-1]), lengths.flip(0)).split([31, 5, 20])
        for part, vectors, reversed_vectors in zip(
            parts, together, reversed_order[::-1], strict=True
        ):
            assert torch.equal(model(part, torch.tensor([len(part)])), vectors)
            assert torch.equal(reversed_vectors, vectors)


def test_without_gradients_the_vectors_are_the_same() -> None:
    model, lengths, tokens = encoder().eval(), torch.tensor([20, 5]), torch.randn(25, 128)
    with torch.autocast("cpu", torch.bfloat16):
        kept = model(tokens, lengths)
        with torch.no_grad():
            assert torch.equal(model(tokens, lengths), kept)
        with torch.inference_mode():
            assert torch.equal(model(tokens, lengths), kept)


def test_strided_tokens_and_bf16_tokens_are_accepted() -> None:
    model, lengths = encoder().eval(), torch.tensor([20, 5])
    wide = torch.randn(25, 256).bfloat16()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(
            model(wide[:, ::2], lengths), model(wide[:, ::2].float().contiguous(), lengths)
        )


def test_no_users_give_no_vectors() -> None:
    model = encoder()
    with torch.autocast("cpu", torch.bfloat16):
        assert model(torch.zeros(0, 128), torch.zeros(0, dtype=torch.int64)).shape == (0, 128)


def test_two_batches_may_wait_for_their_gradients() -> None:
    model, lengths = encoder(), torch.tensor([20, 5, 31])
    expected = encode(model, lengths, "kernel")["tokens"]
    torch.manual_seed(56)
    tokens = torch.randn(56, 128, requires_grad=True)
    keys = torch.randint(-(2**31), 2**31, (56,), dtype=torch.int32)
    with torch.autocast("cpu", torch.bfloat16):
        first = model(tokens, lengths, keys)
        second = model(torch.randn(9, 128), torch.tensor([9]))
    torch.manual_seed(56)
    torch.randn(56, 128)
    torch.randint(-(2**31), 2**31, (56,), dtype=torch.int32)
    second.sum().backward()
    (first * torch.randn(56, 128)).sum().backward()
    assert tokens.grad is not None
    assert torch.equal(tokens.grad, expected)


def test_dropout_keys_depend_on_the_generator() -> None:
    model, lengths, tokens = encoder(), torch.tensor([20, 5]), torch.randn(25, 128)

    def drawn(seed: int) -> Tensor:
        torch.manual_seed(seed)
        with torch.autocast("cpu", torch.bfloat16):
            return model(tokens, lengths)  # type: ignore[no-any-return]

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_copied_and_loaded_models_give_the_same_vectors() -> None:
    model, lengths, tokens = encoder().eval(), torch.tensor([20, 5]), torch.randn(25, 128)
    other = Encoder(2, 128, 4, 256, 0.1).eval()
    other.load_state_dict(model.state_dict())
    with torch.autocast("cpu", torch.bfloat16):
        expected = model(tokens, lengths)
        assert torch.equal(copy.deepcopy(model)(tokens, lengths), expected)
        assert torch.equal(other(tokens, lengths), expected)


def _vectors(tokens: Tensor, file: Path, build: str) -> None:
    """Save vectors from another process, which would otherwise load the fastest build."""
    kernels.library = lambda: kernels.load(build)  # type: ignore[assignment]
    torch.set_num_threads(2)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        torch.save(encoder().eval()(tokens, torch.tensor([20, 5])), file)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_processes_started_after_a_call_can_call(start: str, tmp_path: Path, build: str) -> None:
    tokens = torch.randn(25, 128)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = encoder().eval()(tokens, torch.tensor([20, 5]))
    context = multiprocessing.get_context(start)
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        pool.submit(_vectors, tokens, tmp_path / "vectors", build).result(60)
    assert torch.equal(torch.load(tmp_path / "vectors"), expected)


def test_float32_training_never_runs_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("userbert.model.encoder.encode", None)  # a call would be a TypeError
    monkeypatch.setattr("userbert.model.encoder.encode_float32", None)
    model = encoder()
    model(torch.randn(25, 128), torch.tensor([20, 5])).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def assert_same_in_float32(model: Encoder, lengths: list[int]) -> None:
    """Check that the error against float64 is below twice that of PyTorch in float32."""
    torch.manual_seed(sum(lengths))
    model, counts = model.eval(), torch.tensor(lengths)
    tokens = torch.randn(int(counts.sum()), model.blocks[0].narrow.out_features)
    with torch.inference_mode():
        actual = model(tokens, counts)
        model.fused = False
        expected = model(tokens, counts)
        exact = copy.deepcopy(model).double()(tokens.double(), counts)
    assert not torch.equal(actual, expected) or len(tokens) < 5, "the kernel did not run"
    assert relative_error(actual, exact) < 2 * relative_error(expected, exact) + 1e-7
    assert torch.allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize(
    "lengths",
    [[1], [16], [17], [257], [19, 7, 40, 1, 2], [600, 1], [3] * 300],
    ids=lambda lengths: "-".join(map(str, lengths[:5])),
)
def test_vectors_in_float32_equal_those_of_pytorch(lengths: list[int]) -> None:
    assert_same_in_float32(encoder(), lengths)


@settings(max_examples=15)
@given(st.lists(st.integers(1, 70), min_size=1, max_size=40), st.sampled_from([1, 2, 5]))
def test_float32_vectors_equal_pytorchs_for_any_lengths_and_threads(
    lengths: list[int], threads: int
) -> None:
    torch.set_num_threads(threads)
    assert_same_in_float32(encoder(layers=1), lengths)


@pytest.mark.parametrize(
    ("hidden", "heads", "feed_forward"), [(64, 4, 64), (192, 4, 320), (256, 2, 128)]
)
def test_float32_vectors_equal_pytorchs_for_other_model_sizes(
    hidden: int, heads: int, feed_forward: int
) -> None:
    assert_same_in_float32(encoder(1, hidden, heads, feed_forward), [5, 33, 17])


def test_users_alone_and_in_any_order_get_the_same_float32_vectors() -> None:
    model, lengths = encoder().eval(), torch.tensor([20, 5, 31])
    parts = torch.split(torch.randn(56, 128), [20, 5, 31])
    with torch.inference_mode():
        together = model(torch.cat(parts), lengths).split(lengths.tolist())
        reversed_order = model(torch.cat(parts[::-1]), lengths.flip(0)).split([31, 5, 20])
        for part, vectors, reversed_vectors in zip(
            parts, together, reversed_order[::-1], strict=True
        ):
            assert torch.equal(model(part, torch.tensor([len(part)])), vectors)
            assert torch.equal(reversed_vectors, vectors)
