"""Random choices that are pure functions of what they are made for, such as (seed, epoch, id). No state is kept.

Only sha256 and numpy's raw PCG64 words are used, whose streams numpy promises to keep (NEP 19; the methods of Generator
are not in that promise), so that a resumed run draws what the first one would have drawn, also after an upgrade.
"""

import hashlib
import json

import numpy as np


def pick(num_choices: int, *made_for: int | str) -> int:
    """One of 0..num_choices-1, uniform over seeds."""
    return _word(made_for) % num_choices  # biased by less than num_choices / 2**128


def happens(probability: float, *made_for: int | str) -> bool:
    """True with this probability over seeds; always for 1, never for 0."""
    return _word(made_for) < int(probability * 2**128)


def permutation(length: int, *made_for: int | str) -> np.ndarray:
    """0..length-1 in an order that is uniform over seeds."""
    return np.argsort(np.random.PCG64(_word(made_for)).random_raw(length), kind="stable")


def chosen(length: int, rate: float, *made_for: int | str) -> np.ndarray:
    """Bool [length]: each place alone with this probability."""
    return np.random.PCG64(_word(made_for)).random_raw(length) < np.uint64(min(int(rate * 2**64), 2**64 - 1))


def fraction(*made_for: int | str) -> float:
    """Uniform over seeds between 0 and 1."""
    return _word(made_for) / 2**128


def _word(made_for: tuple[int | str, ...]) -> int:
    # JSON keeps (1, 23) and (12, 3) apart, and 1 and "1".
    return int.from_bytes(hashlib.sha256(json.dumps(made_for).encode()).digest()[:16], "big")
