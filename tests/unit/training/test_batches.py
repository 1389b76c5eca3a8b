"""Ranks, micro-batches and workers never change what a step holds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch

from tests.helpers.toy import (
    ToyBatch,
    ToyOrder,
    collate,
    toy_sample,
)
from vita_train.data.loading.unreadable import collate_readable
from vita_train.errors import DataError, RecipeError
from vita_train.training.batches import BatchLoader, LoadedPart
from vita_train.training.objectives.speech_tokens import SpeechTokensBatch
from vita_train.training.parallel.distributed import World


def ids(size: int, accumulate: int, workers: int = 0, start: int = 0) -> list[list[str]]:
    """Ids of steps ``start`` to 4 over all ranks, sorted within a step."""
    steps: list[list[str]] = [[] for _ in range(start, 4)]
    for rank in range(size):
        world = World(rank, size, rank, torch.device("cpu"))
        loader = BatchLoader(
            collate, ToyOrder(), grad_accum=accumulate, world=world, workers=workers
        )
        for step, (parts, unreadable) in enumerate(loader.steps(start, 4)):
            assert len(parts) == accumulate
            assert not unreadable
            steps[step] += [name for part in parts for name in part.sample_ids]
    return [sorted(step) for step in steps]


@pytest.mark.parametrize(
    ("size", "accumulate", "workers"), [(1, 4, 0), (2, 1, 0), (2, 2, 2), (3, 2, 0), (8, 1, 0)]
)
def test_same_global_batches(size: int, accumulate: int, workers: int) -> None:
    assert (
        ids(size, accumulate, workers)
        == ids(1, 1)
        == [sorted(ToyOrder().ids(step)) for step in range(4)]
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_a_worker_hands_over_one_micro_batch_at_a_time(workers: int) -> None:
    loader = BatchLoader(collate, ToyOrder(), grad_accum=4, workers=workers)
    loader._visits.steps = range(2)
    items = [item for item in loader._loader if isinstance(item, LoadedPart)]
    assert [len(item.batch.sample_ids) for item in items] == [2] * 8
    assert [name for item in items[:4] for name in item.batch.sample_ids] == ToyOrder().ids(0)


def test_starting_later_gives_the_later_batches() -> None:
    assert ids(2, 1, start=2) == ids(1, 1)[2:]


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(RecipeError) as caught:
        ids(2, 5)
    assert caught.value.code == "VT-RECIPE-058"
    assert caught.value.where == "batch.global_batch_size"


class BrokenOrder(ToyOrder):
    """One sample of step 1 cannot be read."""

    def load(self, row: SimpleNamespace) -> SimpleNamespace:
        if row.id in self.ids(1):
            raise DataError("the image is cut off", where="a.jpg", remedy="fetch it again")
        return row


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_that_cannot_be_read_is_told_in_full(workers: int) -> None:
    loader = BatchLoader(collate, BrokenOrder(), workers=workers)
    batches = loader.steps(0, 4)
    next(batches)
    with pytest.raises(DataError) as told:
        next(batches)
    assert str(told.value) == "a.jpg: the image is cut off (fetch it again)"


def unreadable_collate(samples: Sequence[SimpleNamespace], *, seed: int) -> ToyBatch:
    """As the toy's, but every fifth sample's file is gone."""
    for sample in samples:
        if int(sample.id.rpartition("/")[2]) % 5 == 0:
            raise DataError("cannot be read", code="VT-DATA-009", where=sample.id)
    return collate(samples, seed=seed)


@pytest.mark.parametrize("workers", [0, 1])
def test_samples_that_cannot_be_read_are_left_out_and_named(workers: int) -> None:
    loader = BatchLoader(unreadable_collate, ToyOrder(), grad_accum=2, workers=workers, skip=True)
    found = list(loader.steps(0, 3))
    for step, loaded in enumerate(found):
        kept = [name for part in loaded.parts for name in part.sample_ids]
        lost = [sample.id for sample in loaded.unreadable]
        assert all(reason.startswith(name) for name, reason in loaded.unreadable)
        assert sorted(kept + lost) == sorted(ToyOrder().ids(step))
        assert {int(name[-6:]) % 5 == 0 for name in lost} <= {True}
    assert any(loaded.unreadable for loaded in found)


def test_a_micro_batch_of_which_nothing_can_be_read_ends_the_stage() -> None:
    def nothing(samples: Sequence[SimpleNamespace], *, seed: int) -> ToyBatch:
        raise DataError("cannot be read", code="VT-DATA-009", where=samples[0].id)

    with pytest.raises(DataError) as told:
        collate_readable(nothing, ToyOrder().rows(0), seed=0, skip=True)
    assert told.value.code == "VT-DATA-009"


def test_only_what_cannot_be_read_leaves_a_packed_row() -> None:
    rows = [[toy_sample(4), toy_sample(5), toy_sample(6)], [toy_sample(10)], [toy_sample(11)]]

    def packed(samples: Sequence[list[SimpleNamespace]], *, seed: int) -> ToyBatch:
        return unreadable_collate([sample for row in samples for sample in row], seed=seed)

    batch, unreadable = collate_readable(packed, rows, seed=0, skip=True)
    assert [name[-2:] for name in batch.sample_ids] == ["04", "06", "11"]
    assert [sample.id[-2:] for sample in unreadable] == ["05", "10"]


class SwitchingOrder(ToyOrder):
    """Other samples from the end of a phase on; each carries the process that fetched it."""

    def rows(self, step: int) -> list[SimpleNamespace]:
        phase = sum(step >= end for end in self.ends)
        return [toy_sample(100 * phase + step + index) for index in range(8)]

    def load(self, row: SimpleNamespace) -> SimpleNamespace:
        return SimpleNamespace(**{**vars(row), "id": f"{row.id}@{os.getpid()}"})


def test_workers_stay_and_follow_a_plan_that_changes() -> None:
    order = SwitchingOrder()
    order.set_ends([40])
    loader = BatchLoader(collate, order, workers=2)
    first = next(loader.steps(0, 40)).parts[0].sample_ids
    order.set_ends([1])
    second, third = [loaded.parts[0].sample_ids for loaded in loader.steps(1, 3)]

    def places(ids: list[str]) -> list[int]:
        return [int(name.rpartition("@")[0].rpartition("/")[2]) for name in ids]

    def processes(ids: list[str]) -> set[str]:
        return {name.rpartition("@")[2] for name in ids}

    assert places(first) == [*range(8)]
    assert places(second) == [*range(101, 109)]
    assert places(third) == [*range(102, 110)]
    workers = processes(second) | processes(third)
    assert processes(first) < workers
    assert len(workers) == 2
    assert str(os.getpid()) not in workers


def test_every_tensor_of_a_batch_is_pinned_and_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an accelerator nothing can be pinned; what is asked of torch can be seen."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor + 1)
    batch = SpeechTokensBatch(
        text_ids=torch.zeros(2, 3),
        text_lengths=torch.zeros(2),
        codes=[torch.zeros(4), None],
        waves=[None, torch.zeros(5)],
        supervised=6,
        sample_ids=["a", "b"],
    )
    pinned = batch.pin_memory()
    assert float(pinned.text_ids.sum() + pinned.text_lengths.sum()) == 8
    codes, waves = pinned.codes[0], pinned.waves[1]
    assert codes is not None
    assert waves is not None
    assert (codes.sum(), waves.sum()) == (4, 5)
    assert (pinned.codes[1], pinned.waves[0], pinned.sample_ids) == (None, None, ["a", "b"])
    moved = batch.to("meta")
    assert {moved.text_ids.device.type, moved.text_lengths.device.type} == {"meta"}
    assert moved.waves[1] is not None
    assert moved.waves[1].device.type == "meta"
