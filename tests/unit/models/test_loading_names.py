"""What stands before the names of a file that would otherwise fit."""

from __future__ import annotations

from itertools import permutations

from vita_train.models.loading import common_prefix


def test_the_prefix_fits_every_name_whichever_is_looked_at_first() -> None:
    # "b.weight" ends like "weight": with "a.b." one fits, with "a." both do.
    missing, unused = ["weight", "b.weight"], ["a.b.weight", "a.weight", "other.bias"]
    for ours in permutations(missing):
        for theirs in permutations(unused):
            assert common_prefix(ours, theirs) == "a."


def test_names_that_differ_otherwise_have_no_prefix() -> None:
    assert common_prefix(["weight", "bias"], ["a.weight", "b.bias"]) is None
    assert common_prefix([], ["a.weight"]) is None
    assert common_prefix(["weight"], []) is None
