"""How many tiles and tokens images and videos take, and where those stand: by tables and by
rule."""

from __future__ import annotations

from fractions import Fraction
from itertools import groupby
from math import ceil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.helpers.data_world import video_file
from tests.helpers.errors import raises_code
from vita_train.data.media.video import VideoInfo, count_video_tiles, frame_indices, load_frames
from vita_train.data.prepare.positions import positions_of
from vita_train.errors import RecipeError
from vita_train.recipe.check import check_recipe
from vita_train.recipe.data import DataSpec, ImageSpec, VideoSpec
from vita_train.recipe.load import dump_recipe, load_recipe
from vita_train.recipe.special_ids import AUDIO_ID, IMAGE_ID
from vita_train.recipe.visual import (
    TileTokens,
    slowfast_sides,
    tiled_frames,
    video_tiles,
    video_tokens,
)

NATIVE = 25


@pytest.mark.parametrize(
    ("variant", "seconds", "frames"),
    [
        ("paper", 0.04, 4),
        ("paper", 1, 4),
        ("paper", 3.96, 4),
        ("paper", 4, 4),
        ("paper", 5, 5),
        ("paper", 10.2, 11),
        ("paper", 16, 16),
        ("paper", 17, 16),
        ("paper", 600, 16),
        ("code", 0.04, 4),
        ("code", 0.5, 4),
        ("code", 2, 7),
        ("code", 5, 16),
        ("code", 6, 16),
        ("code", 600, 16),
    ],
)
def test_frames_by_duration(variant: str, seconds: float, frames: int) -> None:
    total = round(seconds * NATIVE)
    places = frame_indices(total, NATIVE, VideoSpec.model_validate({"variant": variant}))
    assert len(places) == frames
    assert places == sorted(places)
    assert places[0] == 0
    assert places[-1] < total
    stride = round(NATIVE / {"paper": 1, "code": 3}[variant])
    if 4 * stride <= total <= 16 * stride:
        assert places == list(range(0, total, stride))
    elif total > 16 * stride:
        gaps = np.diff(places)
        assert gaps.max() - gaps.min() <= stride  # evenly, on the grid of the rate
        assert total - places[-1] <= stride


@pytest.mark.parametrize("native", [0.2, 0.49, 1.0, 1.4])
def test_the_stride_is_never_zero(native: float) -> None:
    assert frame_indices(8, native, VideoSpec(variant="code")) == list(range(8))


def test_one_frame_is_taken_as_often_as_must_be() -> None:
    assert frame_indices(1, NATIVE, VideoSpec()) == [0] * 4
    assert frame_indices(1, NATIVE, VideoSpec(min_frames=1)) == [0]


def test_a_rate_is_stated_once() -> None:
    assert load_recipe("tiny").data.video.variant == "paper"
    assert load_recipe("tiny", ["data.video.variant=code"]).data.video.rate == 3
    own = load_recipe("tiny", ["data.video.fps=2"])
    assert (own.data.video.variant, own.data.video.rate) == (None, 2)
    assert load_recipe(dump_recipe(own)) == own
    with raises_code(RecipeError, "VT-RECIPE-047", "data.video", "paper", "fps is 2"):
        load_recipe("tiny", ["data.video.variant=paper", "data.video.fps=2"])


@pytest.mark.parametrize(
    ("frames", "tiles", "tiled", "total"),
    [
        (4, 4, 4, 16),
        (4, 5, 3, 16),
        (4, 7, 2, 16),
        (4, 13, 1, 16),
        (5, 13, 0, 5),
        (8, 2, 8, 16),
        (8, 3, 4, 16),
        (15, 3, 0, 15),
        (16, 1, 16, 16),
        (16, 13, 0, 16),
        (20, 3, 0, 20),
        (20, 1, 0, 20),
        (1, 13, 1, 13),
    ],
)
def test_the_budget_of_tiled_frames(frames: int, tiles: int, tiled: int, total: int) -> None:
    assert tiled_frames(frames, tiles, 16) == tiled
    assert video_tiles(frames, tiles, VideoSpec(tile_frames=True)) == total
    assert video_tiles(frames, tiles, VideoSpec()) == frames


def test_tiled_frames_are_drawn_by_the_seed(tmp_path: Path) -> None:
    path, places = video_file(tmp_path / "f.mp4", frames=9, fps=3), [0, 3, 3, 8]
    data = DataSpec(image=ImageSpec(max_tiles=6), video=VideoSpec(tile_frames=True))

    def tiles_by_frame(seed: int) -> list[tuple[int, int]]:
        levels = np.rint((load_frames(path, places, data, 32, seed=seed).mean((1, 2, 3)) - 10) / 20)
        return [(int(level), len(list(same))) for level, same in groupby(levels)]

    # 64 x 48 pixels are cut 3 x 2; of four frames two have room to become seven tiles, sixteen in
    # all.
    assert count_video_tiles(VideoInfo(9, 3.0, 64, 48), 4, data, 32) == 16
    drawn = {seed: tiles_by_frame(seed) for seed in range(30)}
    assert drawn[5] == tiles_by_frame(5)
    for found in drawn.values():
        assert [level for level, _ in found] == [0, 3, 8]
        assert sum(count for _, count in found) == 16
    assert {tuple(count for _, count in found) for found in drawn.values()} == {
        (7, 8, 1),
        (7, 2, 7),
        (1, 14, 1),
        (1, 8, 7),
    }
    assert (
        len(load_frames(path, places, data, 32, tiled=False))
        == 4
        == count_video_tiles(VideoInfo(9, 3.0, 64, 48), 4, data, 32, tiled=False)
    )


def test_a_tiled_frame_is_cut_as_a_picture(tmp_path: Path) -> None:
    path = video_file(tmp_path / "f.mp4", frames=9, fps=3)
    data = DataSpec(image=ImageSpec(max_tiles=6), video=VideoSpec(tile_frames=True))
    whole = load_frames(path, [2], DataSpec(), 32)
    tiles = load_frames(path, [2], data, 32)
    assert len(tiles) == 7
    assert np.array_equal(tiles[-1:], whole)


@pytest.mark.parametrize(
    ("grid", "slow", "fast"),
    [(16, 12, 7), (27, 20, 12), (24, 18, 11), (8, 6, 4), (4, 3, 2), (3, 2, 1)],
)
def test_slow_and_fast_grids_scale_with_the_tower(grid: int, slow: int, fast: int) -> None:
    assert slowfast_sides(grid) == (slow, fast)


def test_every_fourth_tile_is_slow() -> None:
    spec = VideoSpec(slowfast=True)
    assert video_tokens(6, TileTokens(256, 256), spec) == [144, 49, 49, 49, 144, 49]
    assert sum(video_tokens(16, TileTokens(256, 256), spec)) == 4 * 144 + 12 * 49
    assert video_tokens(3, TileTokens(256, 256), VideoSpec()) == [256] * 3


@pytest.mark.parametrize(
    ("variant", "tiles", "kept"),
    [
        ("v0", 16, {256}),
        ("v0", 21, {225}),  # 21 x 256 is more than 5200
        ("v0", 30, {169}),
        ("v0", 31, {169, 81}),
        ("v0", 46, {169, 49}),
        ("v1", 16, {256}),
        ("v1", 28, {144}),
        ("v1", 40, {144, 81}),
        ("v1", 64, {144, 49}),
        ("v3", 16, {144, 36}),
    ],
)
def test_the_other_rules_keep_what_their_budgets_allow(
    variant: str, tiles: int, kept: set[int]
) -> None:
    spec = VideoSpec.model_validate({"slowfast": variant})
    counts = video_tokens(tiles, TileTokens(256, 256), spec)
    assert set(counts) == kept
    if len(kept) == 2:
        every = 16 if variant == "v3" else 4
        slow = [tile for tile, count in enumerate(counts) if count == max(kept)]
        assert slow == list(range(0, tiles, every))
    elif variant in ("v0", "v1"):
        budget = {"v0": 5200, "v1": 4096}[variant]
        assert sum(counts) <= budget
    with pytest.raises(ValidationError, match="no rule for more than 64 tiles"):
        VideoSpec.model_validate({"slowfast": "v1", "max_frames": 65})


@pytest.mark.parametrize(
    ("sampled", "most", "taken"), [(1, 16, 4), (4, 16, 4), (5, 16, 8), (13, 16, 16), (30, 14, 12)]
)
def test_mosaics_take_whole_fours(sampled: int, most: int, taken: int) -> None:
    spec = VideoSpec(mosaic=True, max_frames=most)
    indices = frame_indices(sampled, 1.0, spec)
    assert len(indices) == taken
    assert indices == sorted(indices)
    assert (indices[0], indices[-1]) == (0, sampled - 1)
    assert video_tiles(taken, 1, spec) == taken // 4 * 5


def test_a_mosaic_shows_its_four_frames_row_by_row(tmp_path: Path) -> None:
    path = video_file(tmp_path / "v.mp4", frames=8, fps=1)
    data = DataSpec(video=VideoSpec(mosaic=True))
    plain = load_frames(path, list(range(8)), DataSpec(), 32)
    tiles = load_frames(path, list(range(8)), data, 32)
    assert tiles.shape == (10, 32, 32, 3)
    assert np.array_equal(tiles[[1, 2, 3, 4, 6, 7, 8, 9]], plain)
    for first, frames in ((0, plain[:4]), (5, plain[4:])):
        corners = tiles[first].reshape(2, 16, 2, 16, 3).swapaxes(1, 2).reshape(4, -1)
        for corner, frame in zip(corners, frames, strict=True):
            assert abs(float(corner.mean()) - float(frame.mean())) < 4


def test_grids_too_small_for_slow_and_fast_are_refused() -> None:
    check_recipe(load_recipe("tiny", ["data.video.slowfast=true"]))
    with raises_code(RecipeError, "VT-RECIPE-027", "data.video.slowfast", "3 x 3", "4 tokens"):
        check_recipe(
            load_recipe("tiny", ["data.video.slowfast=true", "model.vision.patch_size=16"])
        )


@given(
    parts=st.lists(
        st.tuples(st.sampled_from([5, IMAGE_ID, AUDIO_ID]), st.integers(1, 20)), max_size=8
    ),
    stride=st.integers(1, 9),
)
def test_shared_positions_follow_the_rule_to_the_letter(
    parts: list[tuple[int, int]], stride: int
) -> None:
    ids = np.array([token for token, count in parts for _ in range(count)], dtype=np.int64)
    advance: list[Fraction] = []
    for token, same in groupby(ids.tolist()):
        count = len(list(same))
        left = count % stride
        advance += (
            [Fraction(1, stride)] * (count - left) + [Fraction(1, max(left, 1))] * left
            if token == IMAGE_ID
            else [Fraction(1)] * count
        )
    expected = [ceil(sum(advance[: place + 1])) - 1 for place in range(len(ids))]
    assert positions_of(ids, stride).tolist() == expected
    assert positions_of(ids).tolist() == list(range(len(ids)))
