"""Dropout whose masks depend only on tokens, not on batches, padding, threads or kernels.

In: vectors (T, H), a key per token, and a site, the number of the dropout in the network: 0 for the
input embedding, 2i + 1 and 2i + 2 for block i. Out: vectors with some values zeroed and the rest
scaled. A hash of key, site and column decides each value, so `kernels/vectors.h` computes the same
masks in C. The input embedding makes the keys.
"""

import torch
from torch import Tensor, nn

_LEVELS = 1 << 16
"""Number of dropout levels: 16 random bits decide each value."""
_WORD = 0xFFFFFFFF
"""Mask of the lower 32 bits."""


class Dropout(nn.Module):
    """Zeroes a fraction of all values in training, and scales the rest so that the mean stays."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    @property
    def threshold(self) -> int:
        """Dropout probability in 1/65,536ths; 0 in eval."""
        return round(self.rate * _LEVELS) if self.training else 0

    @property
    def scale(self) -> float:
        """Factor of the values that are not dropped."""
        return 1 / (1 - self.rate) if self.threshold else 1.0

    def forward(self, vectors: Tensor, keys: Tensor | None, site: int) -> Tensor:
        """Drop values of (T, H), H even. Keys (T,) are int32; they may be None in eval."""
        if not self.threshold:
            return vectors
        assert keys is not None
        bits = random_bits(keys, site, vectors.shape[1])
        return torch.where(bits >= self.threshold, vectors * self.scale, 0.0)


def random_bits(keys: Tensor, site: int, columns: int) -> Tensor:
    """Return 16 random bits (T, H) for each value of tokens with keys (T,)."""
    starts = keys.to(torch.int64) & _WORD ^ (site * 0x9E3779B9 & _WORD)
    steps = torch.arange(columns // 2, device=keys.device) * 0x85EBCA6B
    words = _mix(starts[:, None] + steps & _WORD)  # (T, H / 2)
    return torch.cat([words & (_LEVELS - 1), words >> 16], dim=1)


def token_keys(seed: int, users: Tensor, numbers: Tensor) -> Tensor:
    """Return keys (T,), int32, of tokens.

    `users` (T,) are the users' numbers, `numbers` (T,) count a user's tokens. A token's key does
    not depend on the user's place in a batch; another seed gives other keys.
    """
    words = torch.zeros_like(users, dtype=torch.int64)
    users, numbers = users.to(torch.int64), numbers.to(torch.int64)
    for part in (seed & _WORD, seed >> 32 & _WORD, users & _WORD, users >> 32 & _WORD, numbers):
        words = _mix(words ^ part & _WORD)
    return _as_int32(words)


def random_keys(count: int, device: torch.device) -> Tensor:
    """Draw keys (T,), int32, from torch's default generator."""
    return torch.randint(-(1 << 31), 1 << 31, (count,), dtype=torch.int32, device=device)


def _as_int32(words: Tensor) -> Tensor:
    return ((words ^ 1 << 31) - (1 << 31)).to(torch.int32)


def _mix(words: Tensor) -> Tensor:
    """Return the finalizer of MurmurHash3 of 32-bit words, stored as int64."""
    words = (words ^ words >> 16) * 0x85EBCA6B & _WORD
    words = (words ^ words >> 13) * 0xC2B2AE35 & _WORD
    return words ^ words >> 16
