"""Counter-based randomness: every draw is a pure function of who draws and the how-many-th draw it is.

No generator has a state to save, so a resumed run continues the same stream, and what a group samples does not depend on
who runs it, when, or beside what.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

KeyArray = NDArray[np.uint64]


def mix(x: KeyArray) -> KeyArray:
    """The finaliser of splitmix64 (Steele, Lea and Flood, 2014): a bijection of 64 bits that scatters neighbours."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def key(*parts: int | str) -> int:
    """A 63-bit seed from names and numbers: the same on every machine and in every process."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def keys(base: int, counters: NDArray[np.integer]) -> KeyArray:
    """One key per counter, all derived from base. Shapes follow the counters."""
    return mix(mix(np.asarray(base, np.uint64)) ^ np.asarray(counters).astype(np.uint64))


def uniform(keys_R: KeyArray, counters_R: NDArray[np.integer]) -> NDArray[np.float64]:
    """Draw number counters_R of the streams keys_R, in [0, 1), 53 random bits. Broadcasts."""
    bits = mix(keys_R ^ mix(np.asarray(counters_R).astype(np.uint64))) >> np.uint64(11)
    return bits.astype(np.float64) * np.float64(2.0**-53)


def permutation(n: int, base: int) -> NDArray[np.int64]:
    """A permutation of range(n) that belongs to the key `base`."""
    return np.argsort(keys(base, np.arange(n)), kind="stable")
