"""Randomness: Philox by its definition, and what is made of its words."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.train.randomness import normal, shuffled, uniform, words

MASK = (1 << 64) - 1
KEYS = st.tuples(st.integers(0, MASK), st.integers(0, MASK))


def philox(key: tuple[int, int], counter: int) -> list[int]:
    """Philox4x64-10: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011."""
    c = [counter >> 64 * i & MASK for i in range(4)]
    k = list(key)
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
        c = [second >> 64 ^ c[1] ^ k[0], second & MASK, first >> 64 ^ c[3] ^ k[1], first & MASK]
        k = [(k[0] + 0x9E3779B97F4A7C15) & MASK, (k[1] + 0xBB67AE8584CAA73B) & MASK]
    return c


@given(KEYS, st.integers(0, 9))
@settings(max_examples=15)
def test_words_are_those_of_philox(key: tuple[int, int], count: int) -> None:
    expected = [w for counter in range(1, 4) for w in philox(key, counter)]
    assert words(key, count).tolist() == expected[:count]


def test_the_definition_gives_the_known_answer() -> None:
    """kat_vectors of Random123: philox4x64, 10 rounds, all zero."""
    assert philox((0, 0), 0) == [
        0x16554D9ECA36314C,
        0xDB20FE9D672D0FDC,
        0xD7E772CEE186176B,
        0x7E68B68AEC7BA23B,
    ]


@given(KEYS, st.integers(0, 60))
@settings(max_examples=60)
def test_a_shuffle_is_that_of_fisher_and_yates(key: tuple[int, int], count: int) -> None:
    order, stream = list(range(count)), iter(words(key, 60).tolist())
    for i in reversed(range(1, count)):
        j = (next(stream) >> 32) * (i + 1) // (1 << 32)
        order[i], order[j] = order[j], order[i]
    assert shuffled(key, count).tolist() == order
    assert sorted(order) == list(range(count))


def test_every_permutation_is_as_likely() -> None:
    counts = np.zeros((4, 4), int)
    for seed in range(4000):
        counts[np.arange(4), shuffled((seed, 1), 4)] += 1
    assert np.abs(counts - 1000).max() < 150  # five standard deviations of 27


@pytest.mark.parametrize(("low", "high"), [(-0.25, 0.25), (0.0, 1.0)])
def test_uniform_numbers_fill_their_range(low: float, high: float) -> None:
    found = uniform((3, 4), (40, 50), low, high)
    assert found.dtype == np.float32
    assert low <= found.min() < low + 0.01
    assert high - 0.01 < found.max() < high
    assert abs(float(found.mean()) - (low + high) / 2) < 0.02


@given(KEYS)
@settings(max_examples=10)
def test_normal_numbers_are_those_of_the_distribution_between_two_deviations(key: tuple[int, int]) -> None:
    exact, cut = NormalDist(), 0.8796256610342398
    low, high = exact.cdf(-2), exact.cdf(2)
    middles = [((word >> 40) + 0.5) * 2.0**-24 for word in words(key, 30).tolist()]
    expected = [exact.inv_cdf(low + u * (high - low)) * 0.1 / cut for u in middles]
    np.testing.assert_allclose(normal(key, (5, 6), 0.1).ravel(), expected, rtol=1e-6, atol=1e-9)


def test_normal_numbers_have_their_deviation() -> None:
    found = normal((1, 2), (200_000,), 0.3).astype(np.float64)
    assert abs(found.std() - 0.3) < 0.002
    assert abs(found.mean()) < 0.002
    assert np.abs(found).max() < 0.6 / 0.87
