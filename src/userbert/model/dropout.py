"""Dropout whose masks depend only on tokens, not on batches, padding, threads or kernels.

In: vectors (T, H), a key per token, and a site: the number of the dropout layer in the network, 0
in the input embedding, 2i + 1 and 2i + 2 in block i. Out: vectors with some values zeroed and the
rest scaled. A hash of key, site and column decides each value, so `kernels/vectors.h` computes the
same masks in C. The input embedding computes the keys.
"""

import torch
from torch import Tensor, nn

_LEVELS = 1 << 16
"""Number of dropout levels: 16 random bits decide each value."""
_MASK = 0xFFFFFFFF
"""Mask of the low 32 bits."""


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
        """Applies dropout to (T, H), H even; `keys` (T,), int32, may be None in eval."""
        if not self.threshold:
            return vectors
        assert keys is not None
        bits = random_bits(keys, site, vectors.shape[1])
        return torch.where(bits >= self.threshold, vectors * self.scale, 0.0)


def random_bits(keys: Tensor, site: int, columns: int) -> Tensor:
    """Returns 16 random bits for each value (T, H) of tokens with keys (T,); H is `columns`."""
    starts = keys.to(torch.int64) & _MASK ^ (site * 0x9E3779B9 & _MASK)
    steps = torch.arange(columns // 2, device=keys.device) * 0x85EBCA6B
    words = _mix(starts[:, None] + steps & _MASK)  # (T, H / 2)
    return torch.cat([words & (_LEVELS - 1), words >> 16], dim=1)


def token_keys(seed: int, users: Tensor, numbers: Tensor) -> Tensor:
    """Returns keys (T,), int32, of tokens.

    `users` (T,) are the numbers of the tokens' users, `numbers` (T,) those of the tokens within
    their user. A key does not depend on the user's place in a batch; another seed gives other keys.
    """
    words = torch.zeros_like(users, dtype=torch.int64)
    users, numbers = users.to(torch.int64), numbers.to(torch.int64)
    for part in (seed & _MASK, seed >> 32 & _MASK, users & _MASK, users >> 32 & _MASK, numbers):
        words = _mix(words ^ part & _MASK)
    return _as_int32(words)


def random_keys(count: int, device: torch.device) -> Tensor:
    """Draws `count` keys, int32, from torch's default generator."""
    return torch.randint(-(1 << 31), 1 << 31, (count,), dtype=torch.int32, device=device)


def _as_int32(words: Tensor) -> Tensor:
    return ((words ^ 1 << 31) - (1 << 31)).to(torch.int32)


def _mix(words: Tensor) -> Tensor:
    """Hashes 32-bit words, stored as int64, by the finalizer of MurmurHash3."""
    words = (words ^ words >> 16) * 0x85EBCA6B & _MASK
    words = (words ^ words >> 13) * 0xC2B2AE35 & _MASK
    return words ^ words >> 16
