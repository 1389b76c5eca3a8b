"""Which samples each global batch holds: a pure function of the data's digest, the seed and the
step.

Neither the number of ranks nor that of workers matters. Planning goes by windows of the endless
stream of a :class:`~vita_train.data.sampling.mix.Mix`, so that memory stays constant and a step
deep inside is reached as fast as the first.
"""

from __future__ import annotations

import bisect
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from vita_train.data.index.corpus import Index
from vita_train.data.index.sample import Sample
from vita_train.data.sampling.deal import EVEN, Costs
from vita_train.data.sampling.grouped import grouped
from vita_train.data.sampling.mix import Mix, Refs, key_of
from vita_train.data.sampling.pack import Budgets, TooLargeError, one_each, pack
from vita_train.errors import DataError
from vita_train.storage.digest import digest_of

WINDOW = 65536
"""Samples planned at once when packing."""
BUCKET_BATCHES = 64
"""Batches whose samples are sorted by length together when batches count samples."""
_MEASURED_WINDOWS = 16
_KEPT_WINDOWS = 3


class Ref(NamedTuple):
    """A visit to a sample."""

    dataset: str
    row: int
    """Row in the dataset's index."""
    visit: int


class _Order:
    """What both orders share: the indexes and the fetching of samples.

    Args:
        indexes: index of each dataset.
        weights: dataset name to mixing weight.
        rows: rows of a global batch over all ranks.
        seed: of every random choice.
        extra: further settings that determine the order.
    """

    def __init__(
        self,
        indexes: Mapping[str, Index],
        weights: Mapping[str, float],
        rows: int,
        seed: int,
        extra: list[Any],
    ) -> None:
        self.indexes = dict(indexes)
        self.batch_rows = rows
        self.seed = seed
        self.mix = Mix({name: len(index) for name, index in indexes.items()}, weights, seed)
        self.digest = digest_of(
            {
                "indexes": {name: index.digest for name, index in indexes.items()},
                "weights": {name: float(weight) for name, weight in weights.items()},
                "rows": rows,
                "seed": seed,
                "kind": type(self).__name__,
                "extra": extra,
            }
        )
        """The same digest means the same batches."""

    @property
    def ends(self) -> Sequence[int]:
        """Ends of curriculum phases: a single order has none."""
        return ()

    def set_ends(self, ends: Sequence[int]) -> None:
        """Take note of no ends, see `ends`."""
        assert not ends, "a single order has no phases"

    def state(self, step: int) -> dict[str, Any]:
        """Return what finds ``step`` at once after a restart, for `seek`: here it is computed."""
        return {}

    def seek(self, state: Mapping[str, Any]) -> None:
        """Take over what another process knew."""

    def sample(self, ref: Ref) -> Sample:
        """Fetch a sample; its ``seed`` depends on the order's seed, the sample and the visit
        alone."""
        sample = self.indexes[ref.dataset].sample(ref.row)
        sample.seed = key_of(self.seed, ref) >> 1
        return sample

    def _lengths(self, refs: Refs) -> np.ndarray:
        lengths = np.zeros((len(refs), 3), dtype=np.int64)
        for number, name in enumerate(self.mix.names):
            mine = refs.dataset == number
            lengths[mine] = self.indexes[name].lengths[refs.index[mine]]
        return lengths

    def _refs(self, refs: Refs) -> list[Ref]:
        return [
            Ref(self.mix.names[dataset], index, visit)
            for dataset, index, visit in zip(
                refs.dataset.tolist(), refs.index.tolist(), refs.visit.tolist(), strict=True
            )
        ]

    def _id(self, ref: Ref) -> str:
        return f"{ref.dataset}/{self.indexes[ref.dataset].split}/{ref.row}"


class _Packed(NamedTuple):
    rows: list[list[Ref]]
    costs: np.ndarray
    """(rows,)"""


class PackedOrder(_Order):
    """Global batches of packed rows.

    Epochs follow one another without a break: a batch may end one and begin the next. A step is
    found from the nearest window whose first row is known; ``state`` and ``seek`` carry that
    knowledge over a restart, without which the windows before are packed again. Without ``packing``
    each row is one sample, and rows come in the order of the mix, or grouped by modality and
    length. ``costs`` says what rows take to compute; which samples a step holds does not depend on
    it.
    """

    def __init__(
        self,
        indexes: Mapping[str, Index],
        weights: Mapping[str, float],
        rows: int,
        budgets: Budgets,
        seed: int,
        *,
        window: int = WINDOW,
        packing: bool = True,
        group: bool = False,
        costs: Costs = EVEN,
    ) -> None:
        extra = [list(budgets), window, *([] if packing else ["one sample a row"])]
        extra += ["by modality and length"] if group else []
        super().__init__(indexes, weights, rows, seed, extra)
        self.budgets = budgets
        self._packing = packing
        self._group = group
        self._window = window
        self._starts: list[tuple[int, int, int]] = [
            (0, 0, 0)
        ]  # first row, epoch, window within the epoch
        self._packed: OrderedDict[tuple[int, int], _Packed] = OrderedDict()
        self._costs = costs

    @property
    def steps_per_epoch(self) -> int:
        """Global batches of the first epoch; estimated from its first million samples where there
        are more."""
        windows = self._windows(0)
        measured = min(windows, _MEASURED_WINDOWS)
        rows = sum(len(self._pack(0, number).rows) for number in range(measured))
        return max(1, math.ceil(rows * windows / measured / self.batch_rows))

    def rows(self, step: int) -> list[list[Ref]]:
        """Return the rows of a global batch."""
        return self._batch(step).rows

    def costs(self, step: int) -> np.ndarray:
        """Return what each row of a global batch takes to compute, (rows,), by the order's
        `Costs`."""
        return self._batch(step).costs

    def _batch(self, step: int) -> _Packed:
        first = step * self.batch_rows
        start, epoch, window = self._starts[
            bisect.bisect_right(self._starts, (first, math.inf, math.inf)) - 1
        ]
        rows: list[list[Ref]] = []
        costs: list[np.ndarray] = []
        while True:
            packed = self._pack(epoch, window)
            mine = slice(max(0, first - start), first + self.batch_rows - start)
            rows += packed.rows[mine]
            costs.append(packed.costs[mine])
            if len(rows) == self.batch_rows:
                return _Packed(rows, np.concatenate(costs))
            start += len(packed.rows)
            epoch, window = (
                (epoch, window + 1) if window + 1 < self._windows(epoch) else (epoch + 1, 0)
            )
            self._know((start, epoch, window))

    def load(self, row: list[Ref]) -> list[Sample]:
        """Fetch the samples of a row."""
        return [self.sample(ref) for ref in row]

    def batch(self, step: int) -> list[list[Sample]]:
        """Fetch the samples of a global batch."""
        return [self.load(row) for row in self.rows(step)]

    def ids(self, step: int) -> list[str]:
        """Return the ids of a global batch's samples."""
        return [self._id(ref) for row in self.rows(step) for ref in row]

    def state(self, step: int) -> dict[str, Any]:
        """Return where ``step`` begins, for :meth:`seek` after a restart."""
        self.rows(step)  # packs as far as that, and so learns where the window begins
        index = bisect.bisect_right(self._starts, (step * self.batch_rows, math.inf, math.inf)) - 1
        return {"digest": self.digest, "window": list(self._starts[index])}

    def seek(self, state: Mapping[str, Any]) -> None:
        """Take over what another process knew; a state of other data or settings is of no use and
        ignored."""
        if state.get("digest") == self.digest:
            start, epoch, window = state["window"]
            self._know((int(start), int(epoch), int(window)))

    def _arrange(self, refs: Refs, first: int, seed: int) -> list[np.ndarray]:
        """Return the rows of a window, as places in it; ``first`` samples of the stream precede
        it."""
        lengths = self._lengths(refs)
        if self._group:
            return grouped(
                lengths, self.budgets, seed, batch=self.batch_rows, filled=first % self.batch_rows
            )
        return (pack if self._packing else one_each)(lengths, self.budgets, seed)

    def _know(self, start: tuple[int, int, int]) -> None:
        index = bisect.bisect_left(self._starts, start)
        if index == len(self._starts) or self._starts[index] != start:
            self._starts.insert(index, start)

    def _windows(self, epoch: int) -> int:
        return max(1, round(self.mix.epoch_size(epoch) / self._window))

    def _pack(self, epoch: int, window: int) -> _Packed:
        key = (epoch, window)
        if key not in self._packed:
            size, parts = self.mix.epoch_size(epoch), self._windows(epoch)
            refs = self.mix.window(epoch, size * window // parts, size * (window + 1) // parts)
            first = size * window // parts
            seed = key_of(self.seed, "rows", epoch, window)
            try:
                indices = self._arrange(refs, self.mix.epoch_start(epoch) + first, seed)
            except TooLargeError as error:
                ref = self._refs(refs)[error.index]
                raise DataError(
                    f"needs {self.indexes[ref.dataset].lengths[ref.row].tolist()} positions, tiles "
                    f"and "
                    f"audio frames, a row holds {list(self.budgets)}",
                    code="VT-DATA-019",
                    where=self._id(ref),
                    remedy="raise seq_len, max_tiles or max_audio_frames of this stage's batch",
                ) from None
            everything, costs = self._refs(refs), self._costs.of(self._lengths(refs))
            self._packed[key] = _Packed(
                [[everything[index] for index in row.tolist()] for row in indices],
                np.array([costs[row].sum() for row in indices]),
            )
            while len(self._packed) > _KEPT_WINDOWS:
                self._packed.popitem(last=False)
        self._packed.move_to_end(key)
        return self._packed[key]


class SampleOrder(_Order):
    """Global batches that count samples; each row is one sample.

    With ``bucket`` the samples of ``BUCKET_BATCHES`` batches are sorted by length before they are
    cut into batches, and the batches shuffled, so that little is padded.
    """

    def __init__(
        self,
        indexes: Mapping[str, Index],
        weights: Mapping[str, float],
        rows: int,
        seed: int,
        *,
        bucket: Literal["none", "tokens", "frames"] = "none",
    ) -> None:
        super().__init__(indexes, weights, rows, seed, [bucket, BUCKET_BATCHES])
        self.bucket = bucket
        self._batches = (
            1 if bucket == "none" else max(1, min(BUCKET_BATCHES, self.mix.epoch_size(0) // rows))
        )
        self._blocks: OrderedDict[int, list[list[Ref]]] = OrderedDict()

    @property
    def steps_per_epoch(self) -> int:
        """Global batches of the first epoch."""
        return max(1, math.ceil(self.mix.epoch_size(0) / self.batch_rows))

    def rows(self, step: int) -> list[Ref]:
        """Return the rows of a global batch: one sample each."""
        number, index = divmod(step, self._batches)
        if number not in self._blocks:
            self._blocks[number] = self._block(number)
            while len(self._blocks) > _KEPT_WINDOWS:
                self._blocks.popitem(last=False)
        return self._blocks[number][index]

    def costs(self, step: int) -> np.ndarray:
        """Return the tokens and filterbank frames of each row of a global batch, (rows,)."""
        lengths = [self.indexes[ref.dataset].lengths[ref.row] for ref in self.rows(step)]
        return np.array([length[0] + length[2] for length in lengths], dtype=np.float64)

    def load(self, row: Ref) -> Sample:
        """Fetch the sample of a row."""
        return self.sample(row)

    def batch(self, step: int) -> list[Sample]:
        """Fetch the samples of a global batch."""
        return [self.load(row) for row in self.rows(step)]

    def ids(self, step: int) -> list[str]:
        """Return the ids of a global batch's samples."""
        return [self._id(ref) for ref in self.rows(step)]

    def _block(self, number: int) -> list[list[Ref]]:
        size = self._batches * self.batch_rows
        refs, epochs = self._stream(number * size, (number + 1) * size)
        if self.bucket != "none":
            column = 0 if self.bucket == "tokens" else 2
            # By epoch first: no sample comes a second time before all have come once.
            refs = refs.take(np.lexsort((self._lengths(refs)[:, column], epochs)))
        found = self._refs(refs)
        batches = [
            found[start : start + self.batch_rows] for start in range(0, size, self.batch_rows)
        ]
        # The lengths of one batch after the other must not rise: the loss would follow them.
        mixed = np.random.default_rng(key_of(self.seed, "blocks", number)).permutation(len(batches))
        return [batches[index] for index in mixed]

    def _stream(self, start: int, stop: int) -> tuple[Refs, np.ndarray]:
        """Return places ``start`` to ``stop`` of the endless stream, and their epochs."""
        parts: list[Refs] = []
        epochs: list[np.ndarray] = []
        epoch = self.mix.epoch_of(start)
        while start < stop:
            begin, end = self.mix.epoch_start(epoch), self.mix.epoch_start(epoch + 1)
            upto = min(stop, end)
            parts.append(self.mix.window(epoch, start - begin, upto - begin))
            epochs.append(np.full(upto - start, epoch))
            start, epoch = upto, epoch + 1
        return Refs(
            *(
                np.concatenate([getattr(part, name) for part in parts])
                for name in ("dataset", "index", "visit")
            )
        ), np.concatenate(epochs)
