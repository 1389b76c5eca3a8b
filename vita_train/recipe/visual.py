"""How many tiles images and videos become, and how many tokens each tile takes.

Preparation, planner, training and chat all count with these functions and no others.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import TYPE_CHECKING, TypeVar

from vita_train.recipe.data import FRAMES_OF_MOSAIC, ImageSpec, VideoSpec

if TYPE_CHECKING:
    import numpy as np

#: One number, or one for each of many samples.
Count = TypeVar("Count", int, "np.ndarray")

#: A frame in this many is slow: it keeps more of its tokens (VITA-1.5, ``slow_fast_pooling``).
SLOW_EVERY = 4
#: Sides of the grids that slow and fast tiles keep, in sixteenths of the tower's (12 x 12 and 7 x 7
#: of 16 x 16).
_SLOW, _FAST = 12, 7
#: Of the public rules with a budget: its tokens, the sides that may be kept by all tiles, the
#: largest that fits; and up to how many tiles which sides hold, slow and fast (0: the one that
#: fits).
_BUDGETS: dict[str, tuple[int, tuple[int, ...], tuple[tuple[int, int, int], ...]]] = {
    "v0": (5200, (16, 15, 14, 13), ((30, 0, 0), (45, 13, 9), (64, 13, 7))),
    "v1": (4096, (16, 15, 14, 13, 12), ((28, 0, 0), (40, 12, 9), (64, 12, 7))),
}
#: Smallest grid on which slow and fast tiles both differ from the whole.
SMALLEST_GRID = 3


def most_tiles(spec: ImageSpec) -> int:
    """Return the most tiles an image becomes, thumbnail included."""
    return spec.max_tiles + (1 if spec.thumbnail and spec.max_tiles > 1 else 0)


def tiled_frames(frames: int, tiles: int, budget: int) -> int:
    """Return how many frames of a video are tiled, if a tiled frame becomes ``tiles`` tiles and any
    other one.

    All, if the budget allows; else as many as it has room for beyond one tile a frame.
    """
    if frames * tiles <= budget:
        return frames
    # A tiled frame takes tiles - 1 more than the one that every frame has
    return max(0, budget - frames) // (tiles - 1) if tiles > 1 else 0


def video_tiles(frames: int, tiles: int, spec: VideoSpec) -> int:
    """Return how many tiles a video of ``frames`` frames becomes, if a tiled frame becomes
    ``tiles``."""
    if spec.mosaic:
        return frames + frames // FRAMES_OF_MOSAIC
    if not spec.tile_frames:
        return frames
    return frames + tiled_frames(frames, tiles, spec.tile_budget) * (tiles - 1)


def most_video_tiles(frames: int, image: ImageSpec, video: VideoSpec) -> int:
    """Return the most tiles a video of ``frames`` frames becomes, whatever the shape of its
    frames."""
    # Not simply at the most tiles: with a budget, frames of more tiles are tiled less often
    return max(video_tiles(frames, tiles, video) for tiles in range(1, most_tiles(image) + 1))


@dataclass(frozen=True)
class TileTokens:
    """Tokens that a tile takes."""

    whole: int
    """What tower and projector give."""
    merged: int
    """Where the tower merges tokens; as many as ``whole`` where it does not."""
    first_whole: bool = False
    """The first tile of a video is not merged."""

    def saved(self, tiles: Count, videos: Count | int) -> Count:
        """Return the positions that merging saves on tiles, those of videos among them; of one
        sample, or of many at once."""
        return (tiles - (videos if self.first_whole else 0)) * (self.whole - self.merged)

    @property
    def are_merged(self) -> bool:
        """True if any tile is."""
        return self.merged != self.whole


def image_tokens(tiles: int, tile: TileTokens) -> list[int]:
    """Return the tokens of each tile of an image."""
    return [tile.merged] * tiles


def video_tokens(tiles: int, tile: TileTokens, spec: VideoSpec) -> list[int]:
    """Return the tokens of each tile of a video, in order.

    With slow-fast pooling every fourth tile is slow, counted over the tiles as the public code
    counts them. So it does not matter for the number of positions which frames are tiled.
    """
    if not spec.slowfast:
        return [tile.whole if tile.first_whole else tile.merged][:tiles] + [tile.merged] * (
            tiles - 1
        )
    every, slow, fast = _slowfast_rule(spec.slowfast, tiles)
    grid = isqrt(tile.whole)
    kept = (scaled_side(grid, slow) ** 2, scaled_side(grid, fast) ** 2)
    return [kept[0] if number % every == 0 else kept[1] for number in range(tiles)]


def _slowfast_rule(variant: bool | str, tiles: int) -> tuple[int, int, int]:
    """Return how many tiles apart the slow ones are, and the sides that slow and fast tiles keep,
    in sixteenths of the tower's grid (VITA-1.5, ``slow_fast_pooling`` and its other versions)."""
    if variant in _BUDGETS:
        budget, sides, steps = _BUDGETS[str(variant)]
        for most, slow, fast in steps:
            if tiles <= most:
                fitting = (side for side in sides if tiles * side**2 <= budget)
                side = slow or next(fitting, sides[-1])
                return SLOW_EVERY, side, fast or side
        raise ValueError(f"slowfast {variant} has no rule for {tiles} tiles")
    return (16, _SLOW, 6) if variant == "v3" else (SLOW_EVERY, _SLOW, _FAST)


def slowfast_sides(grid: int) -> tuple[int, int]:
    """Return the sides of the grids that slow and fast tiles keep of a tower's grid: 12 and 7 of
    16, to scale."""
    return scaled_side(grid, _SLOW), scaled_side(grid, _FAST)


def scaled_side(grid: int, sixteenths: int) -> int:
    """Return so many sixteenths of a tower's grid, rounded."""
    # + 8 rounds to the nearest in whole numbers, with halves up
    return (grid * sixteenths + 8) // 16
