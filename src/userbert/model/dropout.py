"""Dropout whose masks depend only on tokens, not on batches, padding, threads or kernels.

In: vectors (T, H), a key per token, and a site: the number of the dropout layer in the network, 0
in the input embedding, 2i + 1 and 2i + 2 in block i. Out: vectors with some values zeroed and the
rest scaled. A hash of key, site and column decides each value. `kernels/vectors.h` uses the same
hash and constants, so it computes the same masks in C. The input embedding computes the keys.

Letters in shapes: T tokens, H hidden.
"""

import torch
from torch import Tensor, nn

_LEVELS = 1 << 16
"""Number of values of the 16 random bits that decide whether a value is dropped."""
_MASK = 0xFFFFFFFF
"""Mask of the low 32 bits."""


class Dropout(nn.Module):
    """In training, zeroes values with probability `rate`, and scales the rest to keep the mean."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    @property
    def threshold(self) -> int:
        """Dropout probability in 1/65,536ths; 0 in eval."""
        return round(self.rate * _LEVELS) if self.training else 0

    @property
    def scale(self) -> float:
        """Factor of the values that are not dropped; 1 in eval."""
        return 1 / (1 - self.rate) if self.threshold else 1.0

    def forward(self, vectors: Tensor, keys: Tensor | None, site: int) -> Tensor:
        """Applies dropout to vectors (T, H), H even.

        `keys` (T,), int32, are the tokens' keys; None is allowed in eval. `site` is the number of
        the dropout layer.
        """
        if not self.threshold:
            return vectors
        assert keys is not None
        bits = random_bits(keys, site, vectors.shape[1])
        return torch.where(bits >= self.threshold, vectors * self.scale, 0.0)


def random_bits(keys: Tensor, site: int, columns: int) -> Tensor:
    """Returns 16 random bits for each value (T, H) of tokens with keys (T,); H is `columns`.

    `site` is the number of the dropout layer.
    """
    starts = keys.to(torch.int64) & _MASK ^ (site * 0x9E3779B9 & _MASK)
    steps = torch.arange(columns // 2, device=keys.device) * 0x85EBCA6B
    hashes = _mix(starts[:, None] + steps & _MASK)  # (T, H / 2)
    return torch.cat([hashes & (_LEVELS - 1), hashes >> 16], dim=1)


def token_keys(seed: int, users: Tensor, numbers: Tensor) -> Tensor:
    """Returns keys (T,), int32, of tokens.

    `users` (T,) is the `UserBatch.index` of each token's user, `numbers` (T,) the index of each
    token within its user. A key does not depend on the other users of a batch. Another seed gives
    other keys.
    """
    hashes = torch.zeros_like(users, dtype=torch.int64)
    users, numbers = users.to(torch.int64), numbers.to(torch.int64)
    for bits in (seed & _MASK, seed >> 32 & _MASK, users & _MASK, users >> 32 & _MASK, numbers):
        hashes = _mix(hashes ^ bits & _MASK)
    return _as_int32(hashes)


def random_keys(count: int, device: torch.device) -> Tensor:
    """Draws `count` keys, int32, from torch's default generator."""
    return torch.randint(-(1 << 31), 1 << 31, (count,), dtype=torch.int32, device=device)


def _as_int32(numbers: Tensor) -> Tensor:
    """Returns 32-bit numbers, stored as int64, as int32 with the same bits."""
    return ((numbers ^ 1 << 31) - (1 << 31)).to(torch.int32)


def _mix(numbers: Tensor) -> Tensor:
    """Hashes 32-bit numbers, stored as int64, by the finalizer of MurmurHash3."""
    numbers = (numbers ^ numbers >> 16) * 0x85EBCA6B & _MASK
    numbers = (numbers ^ numbers >> 13) * 0xC2B2AE35 & _MASK
    return numbers ^ numbers >> 16
