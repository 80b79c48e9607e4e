"""Softmax cross-entropy over many ids, or a sample of them, in C with gradients (`softmax.c`).

In: word vectors, a linear layer's weights, and the ids in each word. Out: the loss; in the backward
pass the gradients, or a step of Adam. The step of Adam never stores the gradients of the weights,
because writing and reading them would take longer than the rest of the step. `model/softmax.py`
uses this module instead of PyTorch's operations under bf16 autocast, if the kernels are available.

Letters in shapes: M words, H hidden, V ids (all or sampled), P (word, id) pairs, C chunks of ids.
"""

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from userbert.data.ragged import Int64
from userbert.kernels import Block, Blocks, library, openmp_parallel, run
from userbert.kernels.rows import AdamStep

_CHUNK = 128
"""Ids per chunk, as CHUNK in softmax.c."""
_LOG_ZERO = np.float32(-1_000)
"""Replaces -inf in log weights: its exponential is 0 in float32, but unlike -inf, adding it to a
logit and subtracting it again gives the logit."""

_scratch = Blocks()
"""Memory that a call uses only while it runs."""
_exps: dict[int, Blocks] = {}
"""Memory that is kept until the backward pass, by number of chunks, because sizes differ widely."""


class _Call(ctypes.Structure):
    """Structure `Call` of softmax.c."""

    _fields_ = (
        ("parallel", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("words", "ids", "hidden", "threads")),
        *((name, ctypes.c_void_p) for name in
          ("vectors", "weight", "bias", "pair_words", "pair_ids", "pair_weights")),
        ("pairs", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in
          ("shifts", "exps", "tops", "log_sums", "expected", "counts")),
        ("gradient", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in
          ("to_weight", "to_bias", "weight_mean", "weight_square", "bias_mean", "bias_square")),
        ("step", AdamStep),
        ("scratch", ctypes.c_void_p),
    )  # fmt: skip


def fits(hidden: int) -> bool:
    """Returns whether the kernel supports vectors of this size."""
    return hidden % 32 == 0


@dataclass(frozen=True)
class AdamState:
    """Adam's moments of a layer, and the factors of its next step."""

    weight_mean: Tensor
    """(V, H): mean gradient of the weights."""
    weight_square: Tensor
    """(V, H): mean squared gradient of the weights."""
    bias_mean: Tensor
    """(V,): mean gradient of the biases."""
    bias_square: Tensor
    """(V,): mean squared gradient of the biases."""
    step: AdamStep


@dataclass(frozen=True)
class LayerGradient:
    """The gradient of a layer's weights in factors: exponentials of logits, and word vectors."""

    weight: Tensor
    """(V, H)."""
    bias: Tensor
    """(V,)."""
    vectors: Tensor
    """(M, H): word vectors."""
    words: Tensor
    """(P,): index of each pair's word."""
    places: Tensor
    """(P,): index of each pair's row in `weight`, ascending."""
    pair_weights: Tensor
    """(P,): weight of each pair."""
    counts: Tensor
    """(M,): sum of each word's pair weights."""
    log_sums: Tensor
    """(M,): logarithm of each word's sum of exponentials."""
    tops: Tensor
    """(C, M): logit that is subtracted before the exponential, by chunk and word."""
    exps: Block
    """Exponentials of the logits in bf16, which the forward pass kept."""
    gradient: float
    """Gradient of the final loss with respect to this cross-entropy."""

    def dense(self) -> tuple[Tensor, Tensor]:
        """Returns the gradients (V, H) of the weights and (V,) of the biases."""
        to_weight, to_bias = torch.empty_like(self.weight), torch.empty_like(self.bias)
        self._run(to_weight=to_weight.data_ptr(), to_bias=to_bias.data_ptr())
        return to_weight, to_bias

    def take_step(self, state: AdamState) -> None:
        """Updates weights, biases and Adam's moments of them in place."""
        self._run(
            weight_mean=state.weight_mean.data_ptr(),
            weight_square=state.weight_square.data_ptr(),
            bias_mean=state.bias_mean.data_ptr(),
            bias_square=state.bias_square.data_ptr(),
            step=state.step,
        )

    def _run(self, **fields: Any) -> None:
        """Runs the backward pass; `fields` of `_Call` say where its results go."""
        call = _call(self.vectors, self.weight, self.bias, self.words, self.places, **fields)
        call.pair_weights = self.pair_weights.data_ptr()
        call.counts, call.log_sums = self.counts.data_ptr(), self.log_sums.data_ptr()
        call.tops, call.exps = self.tops.data_ptr(), self.exps.address
        call.gradient = self.gradient
        _run("userbert_softmax_backward", call)


def cross_entropy(
    vectors: Tensor,
    weight: Tensor,
    bias: Tensor,
    words: Int64,
    places: Int64,
    *,
    pair_weights: NDArray[np.float32] | None = None,
    log_weights: NDArray[np.float32] | None = None,
    deferred: list[LayerGradient] | None = None,
) -> Tensor:
    """Returns the summed cross-entropy of word vectors (M, H) against sets of ids.

    `weight` is (V, H) and `bias` (V,). The sets are pairs: `words` (P,) is the index of each pair's
    word, `places` (P,) the index of its id's row in `weight`. `pair_weights` (P,) are the pairs'
    weights, 1 by default. `log_weights` (V,) are the log weights of ids in the softmax's sum, for
    words whose set does not contain the id; -inf leaves the id out. For words whose set contains
    the id, its weight is 1. With a list as `deferred`, the backward pass appends the layer's
    gradient to the list instead of returning it.
    """
    order = np.argsort(places, kind="stable")
    weights = np.ones(len(order), np.float32) if pair_weights is None else pair_weights[order]
    pairs = (torch.from_numpy(array) for array in (words[order], places[order], weights))
    shifts = None
    if log_weights is not None:
        shifts = torch.from_numpy(np.maximum(log_weights, _LOG_ZERO))
    training = torch.is_grad_enabled()
    return _CrossEntropy.apply(vectors, weight, bias, *pairs, shifts, deferred, training)  # type: ignore[no-any-return, no-untyped-call]


class _CrossEntropy(torch.autograd.Function):
    """Runs the kernels of `softmax.c`."""

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes by position
        ctx: Any,
        vectors: Tensor,
        weight: Tensor,
        bias: Tensor,
        words: Tensor,
        places: Tensor,
        pair_weights: Tensor,
        shifts: Tensor | None,
        deferred: list[LayerGradient] | None,
        training: bool,
    ) -> Tensor:
        vectors = vectors.detach().float().contiguous()
        weight, bias = weight.detach().contiguous(), bias.detach().contiguous()
        biased = bias if shifts is None else bias + shifts
        count, ids = len(vectors), len(bias)
        counts = torch.bincount(words, pair_weights, minlength=count).float()  # (M,)
        log_sums, expected = torch.empty(count), torch.empty_like(vectors)
        call = _call(vectors, weight, biased, words, places)
        call.shifts = None if shifts is None else shifts.data_ptr()
        if training:
            chunks = -(-ids // _CHUNK)
            tops = torch.empty(chunks, count)
            exps = _exps.setdefault(chunks, Blocks()).take(4 * chunks * _CHUNK * -(-count // 2))
            call.exps, call.tops = exps.address, tops.data_ptr()
        call.log_sums, call.expected = log_sums.data_ptr(), expected.data_ptr()
        _run("userbert_softmax_forward", call)
        pair_rows = weight.index_select(0, places).mul_(pair_weights[:, None])  # (P, H)
        logits = (vectors.index_select(0, words) * pair_rows).sum(dim=1)
        logits += bias.index_select(0, places) * pair_weights
        if training:
            to_vectors = expected.mul_(counts[:, None])
            ctx.to_vectors = to_vectors.index_add_(0, words, pair_rows, alpha=-1)
            ctx.parts = {
                "weight": weight, "bias": bias, "vectors": vectors, "words": words,
                "places": places, "pair_weights": pair_weights, "counts": counts,
                "log_sums": log_sums, "tops": tops, "exps": exps,
            }  # fmt: skip
            ctx.deferred = deferred
        return (counts * log_sums).sum() - logits.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        to_layer = LayerGradient(**ctx.parts, gradient=gradient.item())
        to_vectors = ctx.to_vectors * gradient
        if ctx.deferred is not None:
            ctx.deferred.append(to_layer)
            return to_vectors, None, None, None, None, None, None, None, None
        return to_vectors, *to_layer.dense(), None, None, None, None, None, None


def _call(
    vectors: Tensor, weight: Tensor, bias: Tensor, words: Tensor, places: Tensor, **fields: Any
) -> _Call:
    """Returns the arguments that all calls share. The caller keeps the tensors alive."""
    return _Call(
        parallel=openmp_parallel(),
        words=len(vectors),
        ids=len(bias),
        hidden=vectors.shape[1],
        threads=torch.get_num_threads(),
        vectors=vectors.data_ptr(),
        weight=weight.data_ptr(),
        bias=bias.data_ptr(),
        pair_words=words.data_ptr(),
        pair_ids=places.data_ptr(),
        pairs=len(words),
        **fields,
    )


def _run(name: str, call: _Call) -> None:
    """Calls function `name` of the library with scratch memory."""
    native = library()
    assert native is not None
    native.userbert_softmax_scratch.restype = ctypes.c_int64
    floats = native.userbert_softmax_scratch(
        ctypes.c_int64(call.words), ctypes.c_int64(call.hidden)
    )
    scratch = _scratch.take(4 * floats)
    call.scratch = scratch.address
    run(name, call)
