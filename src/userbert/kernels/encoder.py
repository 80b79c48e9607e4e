"""The encoder's blocks in C: in bf16 with a gradient (`encoder.c`), in float32 without one.

In: token vectors of many users, their lengths, dropout keys, the weights of every block. Out: as
many vectors. `model/encoder.py` uses it where `available` says so, in place of its own operations.
`forward.c` is the one in float32.

Letters in shapes: B users, T tokens of all users, H hidden.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from userbert.kernels import Blocks, fork, run

_kept, _rooms = Blocks(), Blocks()
"""What calls keep until their backward pass, and what they need while they run."""

_NARROW = 8
"""Which of a block's parameters is the weight (H, F) that maps back to H."""


@dataclass(frozen=True)
class BlockShape:
    """What weights don't say of the blocks."""

    layers: int
    heads: int
    threshold: int
    """Of 65,536 values, how many dropout zeroes; 0 outside training."""
    scale: float
    """Of what is kept."""


class _Call(ctypes.Structure):
    """`Call` in call.h."""

    _fields_ = (
        ("fork", ctypes.c_void_p),
        ("users", ctypes.c_int64),
        ("layers", ctypes.c_int64),
        ("hidden", ctypes.c_int64),
        ("heads", ctypes.c_int64),
        ("wide", ctypes.c_int64),
        ("threads", ctypes.c_int64),
        ("threshold", ctypes.c_int64),
        ("scale", ctypes.c_float),
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
        ("room", ctypes.c_void_p),
    )


def fits(hidden: int, heads: int, feed_forward: int) -> bool:
    """Whether blocks of this size can run in C."""
    return hidden % 64 == 0 and feed_forward % 64 == 0 and hidden % (16 * heads) == 0


def encode(
    tokens: Tensor,
    lengths: Tensor,
    keys: Tensor | None,
    shape: BlockShape,
    weights: Sequence[Tensor],
) -> Tensor:
    """Map float32 tokens (T, H) of users with `lengths` (B,) to (T, H).

    `weights` are the parameters of every block in their order, float32; keys (T,) are int32.
    """
    keeps = torch.is_grad_enabled() and any(part.requires_grad for part in (tokens, *weights))
    batch = _Batch(
        lengths.to("cpu", torch.int64).contiguous(),
        None if keys is None else keys.to(torch.int32).contiguous(),
        shape,
        torch.get_num_threads(),
        keeps,
    )
    weights = [weight.contiguous() for weight in weights]
    found: Tensor = _Encode.apply(tokens.contiguous(), batch, *weights)  # type: ignore[no-untyped-call]
    return found


def encode_float32(
    tokens: Tensor, lengths: Tensor, shape: BlockShape, weights: Sequence[Tensor]
) -> Tensor:
    """The same in float32, without dropout and without a gradient."""
    batch = _Batch(
        lengths.to("cpu", torch.int64).contiguous(), None, shape, torch.get_num_threads(), False
    )
    tokens = tokens.detach().contiguous()
    call = _call(tokens, batch, [weight.contiguous() for weight in weights])
    size = ctypes.c_int64()
    run("userbert_forward_memory", call, ctypes.byref(size))
    room = _rooms.take(size.value)
    out = torch.empty_like(tokens)
    call.room, call.out = room.address, out.data_ptr()
    run("userbert_forward", call)
    return out


@dataclass(frozen=True)
class _Batch:
    """What forward and backward are told alike, beside tokens and weights."""

    lengths: Tensor
    keys: Tensor | None
    shape: BlockShape
    threads: int
    keeps: bool


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, batch: _Batch, *weights: Tensor) -> Tensor:
        call = _call(tokens, batch, weights)
        kept_size, room_size = _memory(call)
        kept, room = _kept.take(kept_size), _rooms.take(room_size)
        out = torch.empty_like(tokens)
        call.kept, call.room = kept.address, room.address
        call.out = out.data_ptr()
        run("userbert_encoder_forward", call)
        if batch.keeps:
            ctx.save_for_backward(tokens, *weights)
            ctx.batch, ctx.kept = batch, kept
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        tokens, *weights = ctx.saved_tensors
        call = _call(tokens, ctx.batch, weights)
        room = _rooms.take(_memory(call)[1])
        gradient = gradient.float().contiguous()
        to_tokens = torch.empty_like(tokens)
        to_weights = torch.empty(sum(weight.numel() for weight in weights))
        call.kept, call.room = ctx.kept.address, room.address
        call.out_gradient = gradient.data_ptr()
        call.token_gradient = to_tokens.data_ptr()
        call.gradients = to_weights.data_ptr()
        run("userbert_encoder_backward", call)
        parts = torch.split(to_weights, [weight.numel() for weight in weights])
        shaped = (
            part.view(weight.shape) if weight.ndim > 1 else part
            for part, weight in zip(parts, weights, strict=True)
        )
        return (to_tokens, None, *shaped)


def _call(tokens: Tensor, batch: _Batch, weights: Sequence[Tensor]) -> _Call:
    """What forward and backward have in common. The caller holds the tensors while it runs."""
    addresses = (ctypes.c_void_p * len(weights))(*(weight.data_ptr() for weight in weights))
    narrow = weights[_NARROW]
    return _Call(
        fork=fork(),
        users=len(batch.lengths),
        layers=batch.shape.layers,
        hidden=tokens.shape[1],
        heads=batch.shape.heads,
        wide=narrow.shape[1],
        threads=batch.threads,
        threshold=batch.shape.threshold,
        scale=batch.shape.scale,
        training=batch.keeps,
        lengths=batch.lengths.data_ptr(),
        tokens=tokens.data_ptr(),
        keys=None if batch.keys is None else batch.keys.data_ptr(),
        weights=addresses,
    )


def _memory(call: _Call) -> tuple[int, int]:
    """How many bytes a call keeps, and how many it needs while it runs."""
    kept, room = ctypes.c_int64(), ctypes.c_int64()
    run("userbert_encoder_memory", call, ctypes.byref(kept), ctypes.byref(room))
    return kept.value, room.value
