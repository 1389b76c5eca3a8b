"""The record of sample ids."""

from __future__ import annotations

import random

from vita_train.training.observability.samples import compact, id_sum


def test_ranges_keep_repeats_and_leading_zeros() -> None:
    ids = ["a/3", "a/1", "a/2", "b/7x", "a/2", "c", "d/007", "d/008", "d/10"]
    assert compact(ids) == ["a/:1-2,2-3", "b/:7x", "d/:007-008", "d/:10", "c"]


def test_order_and_ranks_do_not_matter_but_every_id_does() -> None:
    ids = [f"vqa/train/{number}" for number in range(50)]
    mixed = random.Random(0).sample(ids, 50)
    assert id_sum(mixed[:20]) + id_sum(mixed[20:]) == id_sum(ids)
    assert compact(mixed) == compact(ids) == ["vqa/train/:0-49"]
    assert id_sum(ids) != id_sum([*ids[:-1], "vqa/train/51"])
