"""The softmax losses: exact in chunks, unbiased if sampled."""
# mypy: disable-error-code="no-untyped-call"

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from userbert import kernels
from userbert.model.softmax import (
    Candidates,
    WordSets,
    draw_candidates,
    sampled_set_cross_entropy,
    set_cross_entropy,
)

Parts = tuple[Tensor, Tensor, Tensor]


def problem(
    words: int, ids: int, seed: int, hidden: int = 4, scale: float = 1.0
) -> tuple[Parts, WordSets]:
    """Return word vectors, weights, bias and sets, some empty; even seeds give ids weights."""
    generator = torch.Generator().manual_seed(seed)
    vectors, weight, bias = (
        (torch.randn(*size, generator=generator) * factor).requires_grad_()
        for *size, factor in (
            (words, hidden, 1.0),
            (ids, hidden, scale / hidden**0.5),
            (ids, scale),
        )
    )
    rng = np.random.default_rng(seed)
    pairs = np.unique(rng.integers(0, max(1, words) * ids, min(words, 1) * 3 * words))
    weights = None if seed % 2 else rng.uniform(0.1, 2, len(pairs)).astype(np.float32)
    return (vectors, weight, bias), WordSets(pairs // ids, pairs % ids + 1, weights)


def dense(parts: Parts, sets: WordSets) -> Tensor:
    vectors, weight, bias = parts
    targets = torch.zeros(len(vectors), len(bias))
    weights = np.ones(len(sets.ids)) if sets.weights is None else sets.weights
    targets[sets.words, sets.ids - 1] = torch.from_numpy(weights).float()
    return -(targets * (vectors @ weight.t() + bias).log_softmax(1)).sum()


def gradients(loss: Tensor, parts: Parts) -> list[Tensor]:
    return [part.to_dense() for part in torch.autograd.grad(loss * 3, parts)]


def rounded(parts: Parts) -> Parts:
    """Return vectors and weights rounded to bf16, as the kernel multiplies them."""
    vectors, weight, bias = (part.detach() for part in parts)
    return vectors.bfloat16().float(), weight.bfloat16().float(), bias


def error_by_rounding(loss: Tensor, rounded_loss: Tensor, parts: Parts, sets: WordSets) -> Tensor:
    """Return the error of a kernel's loss, in units of the error that rounding may cause.

    The kernel computes the targets' logits exactly, but exponentials, and so their sums, in bf16.
    """
    weights = torch.ones(len(sets.ids)) if sets.weights is None else torch.tensor(sets.weights)
    own = [
        (vectors[sets.words] * weight[sets.ids - 1]).sum(dim=1)
        for vectors, weight, _ in (parts, rounded(parts))
    ]
    expected = rounded_loss - (weights * (own[0] - own[1])).sum()
    single = 1e-6 * (len(parts[1]) + expected.abs() + (weights * own[0].abs()).sum())
    return (loss - expected).abs() / (2**-9 * weights.sum() + single)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 6), st.integers(1, 20), st.integers(0, 2**31))
def test_exact_loss_and_gradients_equal_those_of_a_dense_loss(
    words: int, ids: int, seed: int
) -> None:
    parts, sets = problem(words, ids, seed)
    expected = dense(parts, sets)
    loss = set_cross_entropy(*parts, sets, chunk=7)
    assert torch.allclose(loss, expected, rtol=1e-4, atol=1e-5)
    actual_gradients = gradients(loss, parts)
    for actual, exact in zip(actual_gradients, gradients(expected, parts), strict=True):
        assert torch.allclose(actual, exact, rtol=1e-3, atol=1e-5)


def test_exact_loss_does_not_overflow() -> None:
    parts, sets = problem(3, 9, 0)
    with torch.no_grad():
        parts[0].mul_(300)
    assert torch.allclose(set_cross_entropy(*parts, sets), dense(parts, sets), rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 6), st.integers(1, 20), st.integers(0, 2**31))
def test_sample_of_all_ids_equals_the_exact_loss(words: int, ids: int, seed: int) -> None:
    parts, sets = problem(words, ids, seed)
    candidates = draw_candidates(ids, 1_000, 0.5, sets)
    assert candidates.places.tolist() == list(range(ids))
    loss, expected = sampled_set_cross_entropy(*parts, sets, candidates), dense(parts, sets)
    assert torch.allclose(loss, expected, rtol=1e-4, atol=1e-5)
    for actual, exact in zip(gradients(loss, parts), gradients(expected, parts), strict=True):
        assert torch.allclose(actual, exact, rtol=1e-3, atol=1e-5)


def test_sampled_gradients_contain_only_the_candidates() -> None:
    parts, sets = problem(3, 500, 1)
    candidates = draw_candidates(500, 20, 0.3, sets)
    sampled_set_cross_entropy(*parts, sets, candidates).backward()
    for part in parts[1:]:
        assert part.grad is not None
        assert part.grad.is_sparse
        assert part.grad.coalesce().indices()[0].tolist() == candidates.places.tolist()


def test_sampled_sum_under_the_logarithm_is_unbiased() -> None:
    parts, sets = problem(4, 300, 2)
    logits = (parts[0] @ parts[1].t() + parts[2]).detach().exp()
    sums = []
    for start in (np.arange(400) + 0.5) / 400:
        candidates = draw_candidates(300, 40, float(start), sets)
        weights = torch.from_numpy(np.exp(candidates.log_weights)).repeat(4, 1)
        weights[sets.words, np.searchsorted(candidates.places, sets.ids - 1)] = 1
        own = torch.zeros(4, 300)
        own[sets.words, sets.ids - 1] = 1
        sums.append((weights * logits[:, candidates.places]).sum(dim=1))
    # A word's own ids count once, drawn or not, which makes the sum exact on average.
    expected = logits.sum(dim=1)
    assert torch.allclose(torch.stack(sums).mean(dim=0), expected, rtol=0.02)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5_000), st.integers(1, 300), st.floats(0, 0.999))
def test_ids_are_distinct_and_their_number_is_bounded(ids: int, count: int, start: float) -> None:
    none = WordSets(np.zeros(0, np.int64), np.zeros(0, np.int64))
    candidates = draw_candidates(ids, count, start, none)
    assert len(np.unique(candidates.places)) == len(candidates.places)
    assert candidates.places.min(initial=0) >= 0
    assert candidates.places.max(initial=0) < ids
    assert len(candidates.places) <= count + 1
    assert np.isfinite(candidates.log_weights).all()
    assert (candidates.log_weights >= -1e-6).all()


needs_kernels = pytest.mark.skipif(not kernels.available(), reason="no kernels on this machine")


@needs_kernels
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 40), st.integers(1, 700), st.floats(0.1, 30), st.integers(0, 2**31))
def test_kernel_equals_the_exact_loss_but_for_rounding(
    words: int, ids: int, scale: float, seed: int
) -> None:
    parts, sets = problem(words, ids, seed, hidden=32, scale=scale)
    expected = set_cross_entropy(*parts, sets)
    with torch.autocast("cpu", torch.bfloat16):
        loss = set_cross_entropy(*parts, sets)
    rounded_loss = set_cross_entropy(*rounded(parts), sets)
    assert error_by_rounding(loss, rounded_loss, parts, sets) <= 1
    for actual, exact in zip(gradients(loss, parts), gradients(expected, parts), strict=True):
        rounding = 0.03 * (1 + len(sets.ids)) * max(1, scale)
        assert (actual - exact).norm() <= (0.02 + 0.02 * scale) * exact.norm() + rounding


@needs_kernels
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 40), st.integers(300, 900), st.floats(0.1, 30), st.integers(0, 2**31))
def test_kernel_equals_the_sampled_loss_but_for_rounding(
    words: int, ids: int, scale: float, seed: int
) -> None:
    parts, sets = problem(words, ids, seed, hidden=32, scale=scale)
    candidates = draw_candidates(ids, 50, 0.4, sets)
    expected = sampled_set_cross_entropy(*parts, sets, candidates)
    with torch.autocast("cpu", torch.bfloat16):
        loss = sampled_set_cross_entropy(*parts, sets, candidates)
    rounded_loss = sampled_set_cross_entropy(*rounded(parts), sets, candidates)
    assert error_by_rounding(loss, rounded_loss, parts, sets) <= 1
    for actual, exact in zip(gradients(loss, parts), gradients(expected, parts), strict=True):
        rounding = 0.03 * (1 + len(sets.ids)) * max(1, scale)
        assert (actual - exact).norm() <= (0.02 + 0.02 * scale) * exact.norm() + rounding


@needs_kernels
def test_kernel_is_exact_for_words_with_a_likely_id_that_is_rarely_drawn() -> None:
    # The id's weight of 1,000 does not apply in these words: adding and subtracting leaves noise.
    (vectors, weight, bias), sets = problem(100, 2_100, 3, hidden=128)
    sets = WordSets(np.arange(100), sets.ids[:100])
    with torch.no_grad():
        vectors.mul_(0.1).add_(weight[sets.ids - 1], alpha=12)
    parts = (vectors, weight, bias)
    candidates = Candidates(np.arange(2_100), np.full(2_100, np.log(1_000), np.float32))
    expected = sampled_set_cross_entropy(*parts, sets, candidates)
    with torch.autocast("cpu", torch.bfloat16):
        loss = sampled_set_cross_entropy(*parts, sets, candidates)
    assert torch.allclose(loss, expected, rtol=0.01)
    for actual, exact in zip(gradients(loss, parts), gradients(expected, parts), strict=True):
        assert (actual - exact).norm() <= 0.02 * exact.norm()


@needs_kernels
def test_kernel_supports_wide_vectors() -> None:
    parts, sets = problem(5, 300, 4, hidden=1_280)
    expected = set_cross_entropy(*parts, sets)
    with torch.autocast("cpu", torch.bfloat16):
        loss = set_cross_entropy(*parts, sets)
    assert torch.allclose(loss, expected, rtol=0.01)


@needs_kernels
def test_kernel_keeps_no_memory_without_gradients() -> None:
    parts, sets = problem(500, 1_300, 5, hidden=32)
    before = len(kernels.softmax._exps)
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        loss = set_cross_entropy(*parts, sets)
    assert len(kernels.softmax._exps) == before
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss, set_cross_entropy(*parts, sets))


@needs_kernels
def test_kernel_memory_does_not_grow_with_each_number_of_candidates() -> None:
    before = set(kernels.softmax._exps)
    for ids in range(300, 340):
        parts, sets = problem(3, ids, 6, hidden=32)
        with torch.autocast("cpu", torch.bfloat16):
            set_cross_entropy(*parts, sets)
    assert len(set(kernels.softmax._exps) - before) <= 1


@needs_kernels
def test_kernel_results_do_not_depend_on_the_number_of_threads() -> None:
    parts, sets = problem(9, 3_000, 5, hidden=32)
    results = []
    threads = torch.get_num_threads()
    for count in (1, 2):
        torch.set_num_threads(count)
        with torch.autocast("cpu", torch.bfloat16):
            loss = set_cross_entropy(*parts, sets)
        results.append([loss, *gradients(loss, parts)])
    torch.set_num_threads(threads)
    for one_thread, two_threads in zip(*results, strict=True):
        assert torch.equal(one_thread, two_threads)
