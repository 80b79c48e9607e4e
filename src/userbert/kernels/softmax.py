"""The loss over many ids, or a sample of them, in C: one operation with a gradient (`softmax.c`).

In: word vectors, a linear layer's weights, and the ids in each word. Out: the loss; in its backward
pass the gradients, or a step of Adam along them, for which gradients of the weights never exist as
arrays: there are as many as weights, and to write and read them takes longer than all else.
`model/softmax.py` uses it where it can, in place of its own operations.

Letters in shapes: M words, H hidden, V ids, P (word, id) pairs.
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
from userbert.kernels import Block, Blocks, fork, library, run
from userbert.kernels.rows import AdamStep

_CHUNK = 128
"""Ids that go by at once, as in softmax.c."""
_NEVER = np.float32(-1_000)
"""The logarithm of no weight: small enough to leave no share, and not so small that a logit is lost
when it is added and taken away again."""


_rooms = Blocks()
_shares: dict[int, Blocks] = {}
"""What calls keep until their backward pass, by the number of chunks: sizes differ much."""


class _Call(ctypes.Structure):
    """`Call` in softmax.c."""

    _fields_ = (
        ("fork", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("words", "ids", "hidden", "threads")),
        *((name, ctypes.c_void_p) for name in
          ("vectors", "weight", "bias", "pair_words", "pair_ids", "pair_weights")),
        ("pairs", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in
          ("shifts", "shares", "tops", "log_sums", "expected", "counts")),
        ("gradient", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in
          ("to_weight", "to_bias", "weight_mean", "weight_square", "bias_mean", "bias_square")),
        ("step", AdamStep),
        ("room", ctypes.c_void_p),
    )  # fmt: skip


def fits(hidden: int) -> bool:
    """Whether vectors of this size can be used in C."""
    return hidden % 32 == 0


@dataclass(frozen=True)
class Memory:
    """What Adam remembers of a layer, and its next step."""

    weight_mean: Tensor
    weight_square: Tensor
    """(V, H) each."""
    bias_mean: Tensor
    bias_square: Tensor
    """(V,) each."""
    step: AdamStep


@dataclass(frozen=True)
class LayerGradient:
    """The gradient of a layer's weights as its factors: the shares of ids, and word vectors."""

    weight: Tensor
    bias: Tensor
    vectors: Tensor
    """(M, H)."""
    words: Tensor
    places: Tensor
    """(P,) each: the pairs, ascending in places, which are ids less one."""
    pair_weights: Tensor
    """(P,)"""
    counts: Tensor
    log_sums: Tensor
    tops: Tensor
    shares: Block
    gradient: float
    """Of the loss."""

    def dense(self) -> tuple[Tensor, Tensor]:
        """The gradients (V, H) of the weights and (V,) of the biases."""
        to_weight, to_bias = torch.empty_like(self.weight), torch.empty_like(self.bias)
        self._run(to_weight=to_weight.data_ptr(), to_bias=to_bias.data_ptr())
        return to_weight, to_bias

    def take_step(self, memory: Memory) -> None:
        """Move weights and biases, and what Adam remembers of them, in place."""
        self._run(
            weight_mean=memory.weight_mean.data_ptr(),
            weight_square=memory.weight_square.data_ptr(),
            bias_mean=memory.bias_mean.data_ptr(),
            bias_square=memory.bias_square.data_ptr(),
            step=memory.step,
        )

    def _run(self, **more: Any) -> None:
        call = _call(self.vectors, self.weight, self.bias, self.words, self.places, **more)
        call.pair_weights = self.pair_weights.data_ptr()
        call.counts, call.log_sums = self.counts.data_ptr(), self.log_sums.data_ptr()
        call.tops, call.shares = self.tops.data_ptr(), self.shares.address
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
    """Cross-entropy of words (M, H) against sets of ids, given as pairs (P,) of word and place.

    `pair_weights` (P,) say how much each pair counts; one by default. `log_weights` (V,) say how
    ids weigh in the sum under the softmax of words that do not hold them; -inf: not at all. In
    words that hold them, ids weigh fully. With a list as `deferred`, the backward pass adds the
    layer's gradient to it, and gives the layer none.
    """
    order = np.argsort(places, kind="stable")
    weights = np.ones(len(order), np.float32) if pair_weights is None else pair_weights[order]
    pairs = (torch.from_numpy(array) for array in (words[order], places[order], weights))
    shifts = None
    if log_weights is not None:
        shifts = torch.from_numpy(np.maximum(log_weights, _NEVER))
    keeps = torch.is_grad_enabled()
    return _CrossEntropy.apply(vectors, weight, bias, *pairs, shifts, deferred, keeps)  # type: ignore[no-any-return, no-untyped-call]


class _CrossEntropy(torch.autograd.Function):
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
        keeps: bool,
    ) -> Tensor:
        vectors = vectors.detach().float().contiguous()
        weight, bias = weight.detach().contiguous(), bias.detach().contiguous()
        biased = bias if shifts is None else bias + shifts
        count, ids = len(vectors), len(bias)
        counts = torch.bincount(words, pair_weights, minlength=count).float()  # (M,)
        log_sums, expected = torch.empty(count), torch.empty_like(vectors)
        call = _call(vectors, weight, biased, words, places)
        call.shifts = None if shifts is None else shifts.data_ptr()
        if keeps:
            chunks = -(-ids // _CHUNK)
            tops = torch.empty(chunks, count)
            shares = _shares.setdefault(chunks, Blocks()).take(4 * chunks * _CHUNK * -(-count // 2))
            call.shares, call.tops = shares.address, tops.data_ptr()
        call.log_sums, call.expected = log_sums.data_ptr(), expected.data_ptr()
        _run("userbert_softmax_forward", call)
        own = weight.index_select(0, places).mul_(pair_weights[:, None])  # (P, H)
        logits = (vectors.index_select(0, words) * own).sum(dim=1)
        logits += bias.index_select(0, places) * pair_weights
        if keeps:
            ctx.to_vectors = expected.mul_(counts[:, None]).index_add_(0, words, own, alpha=-1)
            ctx.parts = {
                "weight": weight, "bias": bias, "vectors": vectors, "words": words,
                "places": places, "pair_weights": pair_weights, "counts": counts,
                "log_sums": log_sums, "tops": tops, "shares": shares,
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
    vectors: Tensor, weight: Tensor, bias: Tensor, words: Tensor, places: Tensor, **more: Any
) -> _Call:
    """What all calls have in common. The caller holds the tensors while it runs."""
    return _Call(
        fork=fork(),
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
        **more,
    )


def _run(name: str, call: _Call) -> None:
    native = library()
    assert native is not None
    native.userbert_softmax_room.restype = ctypes.c_int64
    room = _rooms.take(
        4 * native.userbert_softmax_room(ctypes.c_int64(call.words), ctypes.c_int64(call.hidden))
    )
    call.room = room.address
    run(name, call)
