"""Several datasets with weights as one endless, shuffled stream, any stretch of which can be
computed alone."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from vita_train.errors import RecipeError

#: Of the Feistel network. Four make a strong permutation of strong round functions (Luby and
#: Rackoff 1988); ours are cheap ones.
_ROUNDS = 6


@dataclass(frozen=True)
class Refs:
    """References to samples, column by column."""

    dataset: np.ndarray
    """(n,) place in ``Mix.names``."""
    index: np.ndarray
    """(n,) row in the dataset's index."""
    visit: np.ndarray
    """(n,) how often the dataset has been gone through before."""

    def __len__(self) -> int:
        return len(self.index)

    def take(self, indices: np.ndarray) -> Refs:
        """Return the references at ``indices``."""
        return Refs(self.dataset[indices], self.index[indices], self.visit[indices])


class Mix:
    """Weighted datasets. A weight of 1 takes each record once an epoch, 0.2 a fifth of them, 2 each
    twice.

    Each dataset is gone through in shuffled order again and again; an epoch takes the next ``weight
    x size`` records of each and shuffles them together. So with weight 0.2 five epochs take every
    record once. Orders come from a keyed permutation of the integers, not from a list, so that
    memory and the cost of a window do not depend on the sizes.

    Args:
        sizes: rows of each dataset.
        weights: of each dataset, above 0.
        seed: of all orders.

    Raises:
        RecipeError: a dataset is empty or a weight is not above 0.
    """

    def __init__(self, sizes: Mapping[str, int], weights: Mapping[str, float], seed: int) -> None:
        # Sorted: what is drawn must not depend on the order in which a recipe lists its data.
        self.names = sorted(weights)
        self.seed = seed
        for name in self.names:
            if not weights[name] > 0 or not math.isfinite(weights[name]):
                raise RecipeError(
                    f"dataset {name!r} has weight {weights[name]}",
                    code="VT-RECIPE-006",
                    where="data",
                    remedy="give a weight above 0, or leave the dataset out",
                )
            if sizes[name] < 1:
                raise RecipeError(
                    f"dataset {name!r} is empty",
                    code="VT-RECIPE-007",
                    where="data",
                    remedy="leave it out",
                )
        self._sizes = [sizes[name] for name in self.names]
        # Exact: a float of 0.2 is a little more than a fifth, and epochs would drift apart.
        self._shares = [Fraction(str(weights[name])) * sizes[name] for name in self.names]

    def starts(self, epoch: int) -> list[int]:
        """Return how many records of each dataset the epochs before ``epoch`` take."""
        return [math.ceil(share * epoch) for share in self._shares]

    def epoch_start(self, epoch: int) -> int:
        """Return how many records the epochs before ``epoch`` take in all."""
        return sum(self.starts(epoch))

    def epoch_size(self, epoch: int) -> int:
        """Return the number of records of an epoch."""
        return self.epoch_start(epoch + 1) - self.epoch_start(epoch)

    def epoch_of(self, index: int) -> int:
        """Return the epoch that holds a place of the stream."""
        # Epochs are rounded up to whole records, so that the quotient may be one too high.
        epoch = max(0, int(index / sum(self._shares)) - 1)
        while self.epoch_start(epoch + 1) <= index:
            epoch += 1
        return epoch

    def window(self, epoch: int, start: int, stop: int) -> Refs:
        """Return records ``start`` to ``stop`` of an epoch's shuffled order."""
        first, last = self.starts(epoch), self.starts(epoch + 1)
        counts = np.array([b - a for a, b in zip(first, last, strict=True)], dtype=np.int64)
        edges = np.concatenate([[0], np.cumsum(counts)])
        slots = permute(np.arange(start, stop), int(edges[-1]), key_of(self.seed, "epoch", epoch))
        dataset = np.searchsorted(edges, slots, side="right") - 1
        index, visit = np.empty_like(slots), np.empty_like(slots)
        for number, size in enumerate(self._sizes):
            mine = np.flatnonzero(dataset == number)
            # Records go on where the epoch before left off: that is how a weight of 0.2 reaches
            # all of them in five epochs.
            indices = slots[mine] - edges[number] + first[number]
            rounds = indices // size
            for lap in np.unique(rounds):
                these = rounds == lap
                key = key_of(self.seed, self.names[number], int(lap))
                index[mine[these]] = permute(indices[these] % size, size, key)
            visit[mine] = rounds
        return Refs(dataset, index, visit)


def key_of(*parts: object) -> int:
    """Return 64 bits that depend on every part."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def permute(values: np.ndarray, size: int, key: int) -> np.ndarray:
    """Apply a keyed pseudo-random permutation of 0..size-1 to values in that range.

    A balanced Feistel network on the smallest even number of bits that holds ``size``; results
    outside the range are permuted again until they fall inside (cycle walking; Black and Rogaway
    2002), at most four times on average.
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    result = np.asarray(values, dtype=np.uint64)
    open_indices = np.arange(len(result))
    while len(open_indices):
        walked = _feistel(result[open_indices], half, key)
        result[open_indices] = walked
        open_indices = open_indices[walked >= size]
    return result.astype(np.int64)


def _feistel(values: np.ndarray, half: int, key: int) -> np.ndarray:
    mask = np.uint64((1 << half) - 1)
    left, right = values >> np.uint64(half), values & mask
    for number in range(_ROUNDS):
        salt = np.uint64(key_of(key, number))
        left, right = right, left ^ (_scramble(right + salt) & mask)
    return (left << np.uint64(half)) | right


def _scramble(values: np.ndarray) -> np.ndarray:
    """Finaliser of splitmix64: every bit of the result depends on every bit of the value."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
