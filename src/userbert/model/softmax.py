"""Cross-entropy of a softmax over many ids against sets of ids, exact or sampled.

In: word vectors, a linear layer's weights, and the ids in each word. Out: the loss of equation 1.
The exact form processes the ids in chunks, so that PyTorch never holds an array of words by ids;
the C kernel keeps one, in bf16, until the backward pass. The sampled softmax sums over a random
sample of the ids, each weighted by the inverse of its probability to be drawn (the logQ correction
of Bengio & Senécal, 2008). Heads use both.

With S the set of a word's ids, -Σ y log softmax(z) = |S| · logsumexp(z) - Σ z[S]. If the
ids of a set have weights, |S| is their sum and z[S] are weighted.

Letters in shapes: M words, H hidden, V ids without *none*, P (word, id) pairs, C candidate ids.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from userbert import kernels
from userbert.data.ragged import Int64
from userbert.kernels.softmax import LayerGradient, cross_entropy, fits
from userbert.model.encoder import casts_to_bf16
from userbert.model.tables import as_tensor, gather_rows, sorted_set

_CHUNK = 8_192
"""Ids per chunk; their logits and weights fit the processor's cache."""


@dataclass(frozen=True)
class WordSets:
    """Set of one attribute's ids in each of M words, as (word, id) pairs in any order."""

    words: Int64
    """(P,): index of each pair's word among the M words."""
    ids: Int64
    """(P,): id of each pair, never 0, *none*; no pair occurs twice."""
    weights: NDArray[np.float32] | None = None
    """(P,): weight of each pair; None: all are 1."""


def set_cross_entropy(
    vectors: Tensor,
    weight: Tensor,
    bias: Tensor,
    sets: WordSets,
    deferred: list[LayerGradient] | None = None,
    *,
    chunk: int = _CHUNK,
) -> Tensor:
    """Returns the exact cross-entropy of word vectors (M, H) against their sets, summed over words.

    `weight` (V, H) and `bias` (V,) belong to the ids 1, 2, …. If a kernel runs and `deferred` is a
    list, the backward pass appends the gradient of `weight` and `bias` to the list instead of
    returning it. Without a kernel, the loss is computed from `chunk` ids at a time.
    """
    if _kernel_fits(vectors, weight):
        return cross_entropy(
            vectors, weight, bias, sets.words, sets.ids - 1, pair_weights=sets.weights,
            deferred=deferred,
        )  # fmt: skip
    words, places, weights = _pairs(sets, sets.ids - 1, vectors.device)
    return _SetCrossEntropy.apply(vectors, weight, bias, words, places, weights, chunk)  # type: ignore[no-any-return, no-untyped-call]


def _kernel_fits(vectors: Tensor, weight: Tensor) -> bool:
    """Returns whether the C kernel can compute the loss of these tensors."""
    is_float32 = weight.dtype == torch.float32
    return is_float32 and casts_to_bf16(vectors) and kernels.available() and fits(vectors.shape[1])


class _SetCrossEntropy(torch.autograd.Function):
    """Exact loss in PyTorch; the backward pass recomputes each chunk's logits to save memory."""

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes by position
        ctx: Any,
        vectors: Tensor,
        weight: Tensor,
        bias: Tensor,
        words: Tensor,
        places: Tensor,
        weights: Tensor,
        chunk: int,
    ) -> Tensor:
        with torch.autocast(vectors.device.type, enabled=False):
            vectors = vectors.float()
            log_sums = vectors.new_full((len(vectors),), -torch.inf)
            for rows, offsets in zip(_split(weight, chunk), _split(bias, chunk), strict=True):
                log_sum = torch.addmm(offsets, vectors, rows.t()).logsumexp(dim=1)
                log_sums = torch.logaddexp(log_sums, log_sum)
            counts = torch.bincount(words, weights, len(vectors)).to(log_sums)  # |S|: (M,)
            set_logits = (vectors[words] * weight[places]).sum(dim=1) + bias[places]  # (P,)
            ctx.chunk = chunk
            ctx.save_for_backward(vectors, weight, bias, words, places, weights, log_sums, counts)
            return (counts * log_sums).sum() - (weights * set_logits).sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        vectors, weight, bias, words, places, weights, log_sums, counts = ctx.saved_tensors
        to_vectors = torch.zeros_like(vectors)
        to_weight, to_bias = torch.empty_like(weight), torch.empty_like(bias)
        scale = (counts * gradient)[:, None]
        for rows, offsets, weight_part, bias_part in zip(
            _split(weight, ctx.chunk), _split(bias, ctx.chunk),
            _split(to_weight, ctx.chunk), _split(to_bias, ctx.chunk), strict=True,
        ):  # fmt: skip
            logits = torch.addmm(offsets, vectors, rows.t())
            to_logits = logits.sub_(log_sums[:, None]).exp_().mul_(scale)  # (M, chunk)
            to_vectors.addmm_(to_logits, rows)
            torch.mm(to_logits.t(), vectors, out=weight_part)
            torch.sum(to_logits, dim=0, out=bias_part)
        to_pairs = -gradient * weights  # (P,)
        to_vectors.index_add_(0, words, weight[places] * to_pairs[:, None])
        to_weight.index_add_(0, places, vectors[words] * to_pairs[:, None])
        to_bias.index_add_(0, places, to_pairs)
        return to_vectors, to_weight, to_bias, None, None, None, None


def _pairs(sets: WordSets, places: Int64, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the pairs' words, places and weights as tensors."""
    weights = np.ones(len(places), np.float32) if sets.weights is None else sets.weights
    return as_tensor(sets.words, device), as_tensor(places, device), as_tensor(weights, device)


def _split(rows: Tensor, chunk: int) -> Sequence[Tensor]:
    return rows.split(chunk)  # type: ignore[no-untyped-call, no-any-return]


@dataclass(frozen=True)
class Candidates:
    """The ids that a sampled softmax sums over: drawn ids, and ids of the sets."""

    places: Int64
    """(C,): id - 1, the index of the id's weights; ascending, without duplicates."""
    log_weights: NDArray[np.float32]
    """(C,): minus the log of the probability to be drawn; -inf for ids that were not drawn."""


def draw_candidates(ids: int, count: int, start: float, sets: WordSets) -> Candidates:
    """Draws about `count` of the ids 1 … `ids`, and adds the ids of the sets.

    Ids are ordered by falling frequency. The probability to draw id r falls as log(1 + 1 / r), but
    is at most 1. The sample is systematic: only `start`, uniform in [0, 1), is random. The
    probabilities are exact. After the first call, which computes the probabilities of all ids, the
    time grows with the sample, hardly with `ids`.
    """
    probabilities, ends = _probabilities(ids, count)
    drawn = np.searchsorted(ends, np.arange(start, ends[-1], 1.0), side="right")
    places = sorted_set(np.concatenate([drawn, sets.ids - 1]))
    log_weights = np.full(len(places), -np.inf, np.float32)
    log_weights[np.searchsorted(places, drawn)] = -np.log(probabilities[drawn])
    return Candidates(places, log_weights)


@cache
def _probabilities(ids: int, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns each id's probability (V,) to be in a sample of `count` ids, and cumulative sums."""
    probabilities = np.log1p(1 / np.arange(1, ids + 1))
    probabilities = np.minimum(probabilities * (count / probabilities.sum()), 1)
    return probabilities, np.cumsum(probabilities)


def sampled_set_cross_entropy(
    vectors: Tensor, weight: Tensor, bias: Tensor, sets: WordSets, candidates: Candidates
) -> Tensor:
    """Returns the sampled cross-entropy of words (M, H) against their sets, summed over words.

    In a word's softmax, the ids in the word's set have weight 1. Other drawn ids are weighted by
    the inverse of their probability, so that the sum inside the logarithm is unbiased. Gradients
    of `weight` (V, H) and `bias` (V,) have only the candidates' rows.
    """
    device = vectors.device
    candidate_rows = as_tensor(candidates.places, device)
    set_places = np.searchsorted(candidates.places, sets.ids - 1)  # (P,)
    rows, offsets = gather_rows(weight, candidate_rows), gather_rows(bias, candidate_rows)
    if _kernel_fits(vectors, weight):
        return cross_entropy(
            vectors, rows, offsets, sets.words, set_places, pair_weights=sets.weights,
            log_weights=candidates.log_weights,
        )  # fmt: skip
    words, places, weights = _pairs(sets, set_places, device)
    logits = vectors @ rows.t() + offsets  # (M, C)
    logits = logits.float()
    is_in_set = torch.zeros(logits.shape, dtype=torch.bool, device=device)
    is_in_set[words, places] = True
    weighted = torch.where(is_in_set, logits, logits + as_tensor(candidates.log_weights, device))
    counts = torch.bincount(words, weights, len(vectors)).to(logits)
    set_logits = (weights * logits[words, places]).sum()
    return (counts * weighted.logsumexp(dim=1)).sum() - set_logits
