"""What media cost in tokens, without files."""

from __future__ import annotations

from vita_train.data.media.audio import frames_of
from vita_train.data.media.image import choose_grid, count_tiles
from vita_train.data.media.video import frame_indices
from vita_train.errors import UserError
from vita_train.recipe.schema import Recipe
from vita_train.recipe.visual import image_tokens, most_video_tiles, video_tokens

_VIDEO_RATE = 25


def image_cost(size: str, recipe: Recipe) -> str:
    """Say the grid, tiles and positions of an image of ``WxH`` pixels.

    Raises:
        UserError: the size is not of that form.
    """
    try:
        width, height = (int(part) for part in size.lower().split("x"))
        if min(width, height) < 1:
            raise ValueError
    except ValueError:
        raise UserError(
            f"{size!r} is not an image size",
            code="VT-USE-069",
            where="--image",
            remedy="write it like 1280x720",
        ) from None
    spec, side = recipe.data.image, recipe.model.vision.tile_size
    columns, rows = choose_grid(width, height, spec.min_tiles, spec.max_tiles, side)
    tiles = count_tiles(width, height, spec, side)
    positions = sum(image_tokens(tiles, recipe.model.tile_tokens))
    return f"{columns} x {rows} grid, {tiles} tiles, {positions} positions"


def video_cost(seconds: float, recipe: Recipe) -> str:
    """Say the frames and positions of a video of 25 frames a second; where frames are tiled, the
    most there can be."""
    data = recipe.data
    frames = len(frame_indices(max(1, round(seconds * _VIDEO_RATE)), _VIDEO_RATE, data.video))
    tiles = most_video_tiles(frames, data.image, data.video)
    positions = sum(video_tokens(tiles, recipe.model.tile_tokens, data.video))
    return (
        f"{frames} frames, {f'at most {tiles} tiles, ' if tiles > frames else ''}{positions} "
        f"positions"
    )


def audio_cost(seconds: float, recipe: Recipe) -> str:
    """Say the filterbank frames and positions of a clip."""
    rate = recipe.data.audio.sample_rate
    frames = frames_of(round(seconds * rate), rate)
    return f"{frames} frames, {recipe.model.audio_adapter.tokens_of(frames)} positions"
