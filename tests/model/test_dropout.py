"""Dropout by keys: hash, rate, independence, and dependence on tokens alone."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from userbert.model.dropout import Dropout, random_bits, token_keys

WORD = 0xFFFFFFFF


def murmur_finalizer(word: int) -> int:
    word = (word ^ word >> 16) * 0x85EBCA6B & WORD
    word = (word ^ word >> 13) * 0xC2B2AE35 & WORD
    return word ^ word >> 16


@given(st.integers(-(2**31), 2**31 - 1), st.integers(0, 60), st.integers(0, 63))
def test_dropout_bits_equal_a_scalar_hash(key: int, site: int, column: int) -> None:
    word = murmur_finalizer((key & WORD ^ site * 0x9E3779B9 & WORD) + column * 0x85EBCA6B & WORD)
    bits = random_bits(torch.tensor([key], dtype=torch.int32), site, 128)
    assert bits[0, [column, column + 64]].tolist() == [word & 0xFFFF, word >> 16]


def test_dropped_fraction_is_the_rate_and_the_mean_stays() -> None:
    keys = token_keys(1, torch.arange(500) // 20, torch.arange(500) % 20)
    dropped = Dropout(0.1)(torch.ones(500, 128), keys, 3)
    assert (dropped == 0).float().mean().item() == pytest.approx(0.1, abs=0.004)
    assert dropped.mean().item() == pytest.approx(1, abs=0.005)
    assert torch.unique(dropped).tolist() == pytest.approx([0, 1 / 0.9])


def test_nothing_is_dropped_outside_training_or_at_rate_zero() -> None:
    vectors = torch.randn(3, 8)
    assert Dropout(0.5).eval()(vectors, None, 0) is vectors
    assert Dropout(0.0)(vectors, None, 0) is vectors


def correlation(a: Tensor, b: Tensor) -> float:
    return float(np.corrcoef(a.flatten().numpy(), b.flatten().numpy())[0, 1])


def test_neighbouring_tokens_columns_sites_and_seeds_are_independent() -> None:
    users, numbers = torch.arange(4000) // 40, torch.arange(4000) % 40
    keys = token_keys(7, users, numbers)
    unhashed = torch.arange(4000, dtype=torch.int32)
    for some_keys in (keys, unhashed):
        bits = random_bits(some_keys, 1, 64)
        levels = bits.flatten().bincount(minlength=65536).float()
        expected = bits.numel() / 65536
        # Chi-square with 65,535 degrees of freedom, within five standard deviations.
        assert ((levels - expected) ** 2 / expected).sum() == pytest.approx(65535, abs=5 * 362)
        pairs = {
            "token": (bits[1:], bits[:-1]),
            "column": (bits[:, 1:], bits[:, :-1]),
            "half": (bits[:, :32], bits[:, 32:]),
            "site": (bits, random_bits(some_keys, 2, 64)),
        }
        for name, (first, second) in pairs.items():
            # 256,000 pairs: the standard deviation is .002.
            assert abs(correlation(first, second)) < 0.01, name
    assert abs(correlation(keys, token_keys(8, users, numbers))) < 0.08


@given(st.integers(0, 2**62), st.integers(0, 2**40), st.integers(0, 1000))
def test_key_depends_on_seed_user_and_number(seed: int, user: int, number: int) -> None:
    def key(seed: int, user: int, number: int) -> int:
        return int(token_keys(seed, torch.tensor([user]), torch.tensor([number]))[0])

    base = key(seed, user, number)
    assert base == key(seed, user, number)
    assert base != key(seed, user, number + 1)
    assert base != key(seed, user + 1, number)
    assert base != key(seed + 1, user, number)


def test_keys_of_many_tokens_hardly_collide() -> None:
    users, numbers = torch.arange(300).repeat_interleave(300), torch.arange(300).repeat(300)
    keys = token_keys(0, users, numbers)
    assert keys.dtype == torch.int32
    # A pair collides with probability 1 in 2^32: among 90,000 keys, about one pair.
    assert len(torch.unique(keys)) >= len(keys) - 6
