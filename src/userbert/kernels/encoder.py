"""The encoder's blocks in C: bf16 with gradients (`encoder.c`), float32 without (`forward.c`).

In: token vectors of many users, their lengths, dropout keys, and the weights of all blocks. Out:
the encoded token vectors. `model/encoder.py` uses this module instead of PyTorch's operations if
the kernels are available and `fits` the size.

Letters in shapes: B users, T tokens of all users, H hidden, F feed-forward width.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from userbert.kernels import Blocks, openmp_parallel, run

_kept, _scratch = Blocks(), Blocks()
"""Memory that is kept until the backward pass, and memory that a call uses only while it runs."""

_FC2 = 8
"""Index of the second feed-forward weight (H, F) among a block's parameters."""


@dataclass(frozen=True)
class BlockShape:
    """Settings of the blocks that cannot be derived from the shapes of the weights."""

    layers: int
    """Number of blocks."""
    heads: int
    """Number of attention heads."""
    dropout_threshold: int
    """Dropout probability in 1/65,536ths; 0 in eval."""
    dropout_scale: float
    """Factor of the values that are not dropped; 1 in eval."""


class _Call(ctypes.Structure):
    """Structure `Call` of call.h."""

    _fields_ = (
        ("parallel", ctypes.c_void_p),
        ("users", ctypes.c_int64),
        ("layers", ctypes.c_int64),
        ("hidden", ctypes.c_int64),
        ("heads", ctypes.c_int64),
        ("feed_forward", ctypes.c_int64),
        ("threads", ctypes.c_int64),
        ("dropout_threshold", ctypes.c_int64),
        ("dropout_scale", ctypes.c_float),
        ("training", ctypes.c_int32),
        ("lengths", ctypes.c_void_p),
        ("tokens", ctypes.c_void_p),
        ("keys", ctypes.c_void_p),
        ("weights", ctypes.POINTER(ctypes.c_void_p)),
        ("out", ctypes.c_void_p),
        ("out_gradient", ctypes.c_void_p),
        ("token_gradient", ctypes.c_void_p),
        ("gradients", ctypes.c_void_p),
        ("kept", ctypes.c_void_p),
        ("scratch", ctypes.c_void_p),
    )


def fits(hidden: int, heads: int, feed_forward: int) -> bool:
    """Returns whether the kernels support blocks of this size."""
    return hidden % 64 == 0 and feed_forward % 64 == 0 and hidden % (16 * heads) == 0


def encode(
    tokens: Tensor,
    lengths: Tensor,
    keys: Tensor | None,
    shape: BlockShape,
    weights: Sequence[Tensor],
) -> Tensor:
    """Encodes tokens (T, H), float32, of users with `lengths` (B,) tokens; returns (T, H).

    Products are in bf16; gradients are supported. `keys` (T,), int32, decide dropout; None: without
    dropout. `weights` are the float32 parameters of all blocks, in the order of `parameters()`.
    """
    training = torch.is_grad_enabled() and any(part.requires_grad for part in (tokens, *weights))
    batch = _Batch(
        lengths.to("cpu", torch.int64).contiguous(),
        None if keys is None else keys.to(torch.int32).contiguous(),
        shape,
        torch.get_num_threads(),
        training,
    )
    weights = [weight.contiguous() for weight in weights]
    encoded: Tensor = _Encode.apply(tokens.contiguous(), batch, *weights)  # type: ignore[no-untyped-call]
    return encoded


def encode_float32(
    tokens: Tensor, lengths: Tensor, shape: BlockShape, weights: Sequence[Tensor]
) -> Tensor:
    """Encodes tokens as `encode` does, but in float32, without dropout and without gradients."""
    batch = _Batch(
        lengths.to("cpu", torch.int64).contiguous(), None, shape, torch.get_num_threads(), False
    )
    tokens = tokens.detach().contiguous()
    call = _call(tokens, batch, [weight.contiguous() for weight in weights])
    size = ctypes.c_int64()
    run("userbert_forward_memory", call, ctypes.byref(size))
    scratch = _scratch.take(size.value)
    out = torch.empty_like(tokens)
    call.scratch, call.out = scratch.address, out.data_ptr()
    run("userbert_forward", call)
    return out


@dataclass(frozen=True)
class _Batch:
    """Arguments of forward and backward, apart from tokens and weights."""

    lengths: Tensor
    """(B,), int64: number of tokens of each user."""
    keys: Tensor | None
    """(T,), int32: dropout keys; None: without dropout."""
    shape: BlockShape
    threads: int
    """Maximum number of threads."""
    training: bool
    """Whether a backward pass may follow, which needs the kept memory."""


class _Encode(torch.autograd.Function):
    """Runs the bf16 kernels of `encoder.c`."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, batch: _Batch, *weights: Tensor) -> Tensor:
        call = _call(tokens, batch, weights)
        kept_size, scratch_size = _memory(call)
        kept, scratch = _kept.take(kept_size), _scratch.take(scratch_size)
        out = torch.empty_like(tokens)
        call.kept, call.scratch = kept.address, scratch.address
        call.out = out.data_ptr()
        run("userbert_encoder_forward", call)
        if batch.training:
            ctx.save_for_backward(tokens, *weights)
            ctx.batch, ctx.kept = batch, kept
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        tokens, *weights = ctx.saved_tensors
        call = _call(tokens, ctx.batch, weights)
        scratch = _scratch.take(_memory(call)[1])
        gradient = gradient.float().contiguous()
        token_gradient = torch.empty_like(tokens)
        weight_gradients = torch.empty(sum(weight.numel() for weight in weights))
        call.kept, call.scratch = ctx.kept.address, scratch.address
        call.out_gradient = gradient.data_ptr()
        call.token_gradient = token_gradient.data_ptr()
        call.gradients = weight_gradients.data_ptr()
        run("userbert_encoder_backward", call)
        parts = torch.split(weight_gradients, [weight.numel() for weight in weights])
        shaped = (
            part.view(weight.shape) if weight.ndim > 1 else part
            for part, weight in zip(parts, weights, strict=True)
        )
        return (token_gradient, None, *shaped)


def _call(tokens: Tensor, batch: _Batch, weights: Sequence[Tensor]) -> _Call:
    """Returns the arguments that forward and backward share. The caller keeps the tensors alive."""
    addresses = (ctypes.c_void_p * len(weights))(*(weight.data_ptr() for weight in weights))
    return _Call(
        parallel=openmp_parallel(),
        users=len(batch.lengths),
        layers=batch.shape.layers,
        hidden=tokens.shape[1],
        heads=batch.shape.heads,
        feed_forward=weights[_FC2].shape[1],
        threads=batch.threads,
        dropout_threshold=batch.shape.dropout_threshold,
        dropout_scale=batch.shape.dropout_scale,
        training=batch.training,
        lengths=batch.lengths.data_ptr(),
        tokens=tokens.data_ptr(),
        keys=None if batch.keys is None else batch.keys.data_ptr(),
        weights=addresses,
    )


def _memory(call: _Call) -> tuple[int, int]:
    """Returns the sizes in bytes of memory kept for the backward pass, and of scratch memory."""
    kept, scratch = ctypes.c_int64(), ctypes.c_int64()
    run("userbert_encoder_memory", call, ctypes.byref(kept), ctypes.byref(scratch))
    return kept.value, scratch.value
