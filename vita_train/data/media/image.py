"""Images to tiles."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from vita_train.data.media import MediaError
from vita_train.data.media.door import decoding, find_file
from vita_train.data.media.shown import MAX_PIXELS, as_shown, first_page, image_formats
from vita_train.data.media.whole import check_whole
from vita_train.recipe.data import ImageSpec
from vita_train.recipe.tower import TowerSpec

if TYPE_CHECKING:
    from torch import Tensor

#: An image longer than this is made smaller before it is padded to a square, which could be huge
#: otherwise.
_PADDED_WHOLE = 4096


@lru_cache(maxsize=8)
def grids(least: int, most: int) -> list[tuple[int, int]]:
    """Return every (columns, rows) of ``least`` to ``most`` tiles, by area, then by columns."""
    found = [
        (columns, rows)
        for columns in range(1, most + 1)
        for rows in range(1, most + 1)
        if least <= columns * rows <= most
    ]
    return sorted(found, key=lambda grid: (grid[0] * grid[1], grid[0]))


def choose_grid(width: int, height: int, least: int, most: int, side: int) -> tuple[int, int]:
    """Return the (columns, rows) whose shape is nearest to the image's.

    On a tie the larger grid wins if the image has more than half of the pixels that it asks for
    (InternVL dynamic preprocessing).
    """
    best, nearest = (1, 1), float("inf")
    for columns, rows in grids(least, most):
        distance = abs(width / height - columns / rows)
        if distance < nearest:
            best, nearest = (columns, rows), distance
        elif distance == nearest and width * height > 0.5 * side * side * columns * rows:
            best = (columns, rows)
    return best


def count_tiles(width: int, height: int, spec: ImageSpec, side: int, *, tiled: bool = True) -> int:
    """Return how many tiles an image becomes, thumbnail included."""
    if not tiled:
        return 1
    columns, rows = choose_grid(width, height, spec.min_tiles, spec.max_tiles, side)
    return columns * rows + (1 if spec.thumbnail and columns * rows > 1 else 0)


def open_image(path: Path) -> Image.Image:
    """Decode an image as people see it: upright, in sRGB, transparent parts white; as RGB.

    Of an animation the first frame that is shown is taken, of a document the first page that is no
    thumbnail.

    Raises:
        MediaError: missing, not an image, truncated, or too large to decode safely.
    """
    path = find_file(path, "image")
    with decoding(path, "image"), _opened(path) as image:
        check_whole(path, "image")
        first_page(image)
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise MediaError(
                "too large", f"{path} has {width} x {height} pixels, the most is {MAX_PIXELS}"
            )
        image.load()
        shown = as_shown(image)
        if _is_plain(shown) and not _is_plain(image):
            raise MediaError("blank image", f"nothing is seen of what {path} holds")
        return shown


def _is_plain(image: Image.Image) -> bool:
    """Whether all pixels are the same. A few tell of nearly every image that they are not."""
    width, height = image.size
    some = {image.getpixel((width * k // 8, height * (3 * k % 8) // 8)) for k in range(8)}
    if len(some) > 1:
        return False
    extrema = image.getextrema()
    pairs = extrema if isinstance(extrema[0], tuple) else (extrema,)
    return all(pair[0] == pair[1] for pair in pairs)


def _opened(path: Path) -> Image.Image:
    try:
        return Image.open(path, formats=image_formats())
    except Image.DecompressionBombError as error:
        raise MediaError("too large", f"{path}: {error}") from None


def cut_tiles(image: Image.Image, spec: ImageSpec, side: int, *, tiled: bool = True) -> np.ndarray:
    """Cut an image into (N, side, side, 3) uint8 tiles, row by row, the whole image last.

    An image of one tile becomes a square as ``spec.single_tile`` says; several tiles stretch it to
    their grid.
    """
    grid = choose_grid(*image.size, spec.min_tiles, spec.max_tiles, side) if tiled else (1, 1)
    return cut_grid(image, grid, spec, side)


def cut_grid(image: Image.Image, grid: tuple[int, int], spec: ImageSpec, side: int) -> np.ndarray:
    """Cut an image as `cut_tiles` does, into a given grid of (columns, rows)."""
    if grid == (1, 1):
        return np.asarray(to_square(image, side, spec.single_tile))[None]
    columns, rows = grid
    whole = np.asarray(image.resize((columns * side, rows * side), Image.Resampling.BICUBIC))
    tiles = whole.reshape(rows, side, columns, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)
    if spec.thumbnail:
        small = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))
        tiles = np.concatenate([tiles, small[None]])
    return tiles


def to_square(image: Image.Image, side: int, how: str) -> Image.Image:
    """Make an image square: ``squash`` stretches, ``pad`` adds grey, ``crop`` keeps the middle."""
    if how == "pad" and max(image.size) > _PADDED_WHOLE:
        image = ImageOps.contain(image, (_PADDED_WHOLE, _PADDED_WHOLE), Image.Resampling.BICUBIC)
    width, height = image.size
    if how == "pad" and width != height:
        longest = max(width, height)
        square = Image.new("RGB", (longest, longest), (124, 116, 104))
        square.paste(image, ((longest - width) // 2, (longest - height) // 2))
        image = square
    elif how == "crop" and width != height:
        shortest = min(width, height)
        left, top = (width - shortest) // 2, (height - shortest) // 2
        image = image.crop((left, top, left + shortest, top + shortest))
    return image.resize((side, side), Image.Resampling.BICUBIC)


def normalise(tiles: np.ndarray, vision: TowerSpec) -> Tensor:
    """Turn (N, S, S, 3) uint8 into (N, 3, S, S) float32, mean and deviation of the tower taken
    out."""
    import torch

    pixels = torch.from_numpy(np.array(tiles)).permute(0, 3, 1, 2).float().div_(255)
    mean = torch.tensor(vision.mean).view(1, 3, 1, 1)
    std = torch.tensor(vision.std).view(1, 3, 1, 1)
    return pixels.sub_(mean).div_(std)
