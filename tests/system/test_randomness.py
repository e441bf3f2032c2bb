"""Counter-based randomness: the same everywhere and for ever, and random enough.

Run: .venv/bin/python -m pytest tests/test_randomness.py   (about 2 s on one core)
"""

from __future__ import annotations

import numpy as np
from scipy.stats import chisquare

from outdo.system import randomness


def test_the_streams_never_change() -> None:
    """Golden values: a change here silently changes every run of every recipe, so it has to be on purpose."""
    assert randomness.key("weights", 0) == 4773482397017086138
    assert randomness.keys(7, np.array([0, 1, 2])).tolist() == [
        13309476754707697221, 4414019431610648415, 5090977316425868581]  # fmt: skip
    drawn = randomness.uniform(randomness.keys(7, np.array([0, 1])), np.array([3, 3]))
    np.testing.assert_allclose(drawn, [0.95686, 0.29771], atol=1e-5)


def test_mix_is_a_splitmix64() -> None:
    """First outputs of the reference implementation with seed 0: state 0, then one golden step on."""
    states = np.array([0, 0x9E3779B97F4A7C15], np.uint64)
    assert randomness.mix(states).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


def test_key_parts_do_not_run_together() -> None:
    parts = [("a", "b"), ("ab",), ("a", "b", ""), ("", "ab"), ("1", 2), (12,), (1, 2), (1, 20), (11, 2)]
    assert len({randomness.key(*p) for p in parts}) == len(parts) - 1, 'only ("1", 2) and (1, 2) are one name'
    assert all(0 <= randomness.key(i) < 2**63 for i in range(1000))


def test_uniform_is_uniform_and_below_one() -> None:
    keys = randomness.keys(1, np.arange(400))
    u = randomness.uniform(keys[:, None], np.arange(500)[None])
    assert u.shape == (400, 500) and u.min() >= 0 and u.max() < 1 and u.dtype == np.float64
    assert chisquare(np.histogram(u, 100, (0, 1))[0]).pvalue > 1e-3
    assert abs(np.corrcoef(u[:, :-1].ravel(), u[:, 1:].ravel())[0, 1]) < 0.01, "neighbouring draws"
    assert abs(np.corrcoef(u[:-1].ravel(), u[1:].ravel())[0, 1]) < 0.01, "neighbouring streams"
    assert len(np.unique(u)) == u.size


def test_a_draw_depends_on_its_stream_and_number_alone() -> None:
    keys = randomness.keys(1, np.arange(50))
    together = randomness.uniform(keys, np.arange(50))
    assert [float(randomness.uniform(keys[i : i + 1], np.array([i]))[0]) for i in range(50)] == together.tolist()


def test_permutation() -> None:
    orders = [randomness.permutation(100, randomness.key("x", i)) for i in range(200)]
    assert all(sorted(o.tolist()) == list(range(100)) for o in orders)
    assert len({tuple(o.tolist()) for o in orders}) == 200
    firsts = np.bincount([o[0] // 10 for o in orders], minlength=10)
    assert chisquare(firsts).pvalue > 1e-3
    assert randomness.permutation(0, 1).tolist() == []
