"""What media cost in language positions, without files."""

from __future__ import annotations

from vita_train.data.media.audio import frames_of
from vita_train.data.media.image import choose_grid, count_tiles
from vita_train.data.media.video import frame_places
from vita_train.errors import UserError
from vita_train.recipe.schema import Recipe

_FILM_RATE = 25


def image_cost(size: str, recipe: Recipe) -> str:
    """Say the grid, tiles and positions of a picture of ``WxH`` pixels.

    Raises:
        UserError: the size is not of that form.
    """
    try:
        width, height = (int(part) for part in size.lower().split("x"))
        if min(width, height) < 1:
            raise ValueError
    except ValueError:
        raise UserError(f"{size!r} is not a picture size", where="--image", remedy="write it like 1280x720") from None
    spec, vision = recipe.data.image, recipe.model.vision
    columns, rows = choose_grid(width, height, spec.min_tiles, spec.max_tiles, vision.image_size)
    tiles = count_tiles(width, height, spec, vision.image_size)
    return f"{columns} x {rows} grid, {tiles} tiles, {tiles * vision.tokens_per_tile} positions"


def video_cost(seconds: float, recipe: Recipe) -> str:
    """Say the frames and positions of a video of 25 frames a second."""
    frames = len(frame_places(max(1, round(seconds * _FILM_RATE)), _FILM_RATE, recipe.data.video))
    return f"{frames} frames, {frames * recipe.model.vision.tokens_per_tile} positions"


def audio_cost(seconds: float, recipe: Recipe) -> str:
    """Say the filterbank frames and positions of a clip."""
    rate = recipe.data.audio.sample_rate
    frames = frames_of(round(seconds * rate), rate)
    return f"{frames} frames, {recipe.model.audio_adapter.tokens_of(frames)} positions"
