"""Pictures to tiles."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from vita_train.data.media import MediaError
from vita_train.recipe.data import ImageSpec
from vita_train.recipe.vision import TowerSpec


@lru_cache(maxsize=8)
def grids(least: int, most: int) -> list[tuple[int, int]]:
    """Return every (columns, rows) of ``least`` to ``most`` tiles, by area, then by columns."""
    found = [(columns, rows) for columns in range(1, most + 1) for rows in range(1, most + 1)
             if least <= columns * rows <= most]
    return sorted(found, key=lambda grid: (grid[0] * grid[1], grid[0]))


def choose_grid(width: int, height: int, least: int, most: int, side: int) -> tuple[int, int]:
    """Return the (columns, rows) whose shape is nearest to the picture's.

    On a tie the larger grid wins if the picture has more than half of the pixels that it asks for
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
    """Return how many tiles a picture becomes, thumbnail included."""
    if not tiled:
        return 1
    columns, rows = choose_grid(width, height, spec.min_tiles, spec.max_tiles, side)
    return columns * rows + (1 if spec.thumbnail and columns * rows > 1 else 0)


def open_image(path: Path) -> Image.Image:
    """Decode a picture as RGB; transparent parts become white.

    Raises:
        MediaError: missing, not a picture, truncated, or too large to decode safely.
    """
    try:
        if path.stat().st_size == 0:
            raise MediaError("empty file", f"picture {path} is empty")
        with Image.open(path) as image:
            image.load()
            if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                white = Image.new("RGBA", image.size, (255, 255, 255, 255))
                return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
            return image.convert("RGB")
    except MediaError:
        raise
    except FileNotFoundError:
        raise MediaError("missing file", f"picture {path} does not exist") from None
    except UnidentifiedImageError:
        raise MediaError("unreadable picture", f"{path} is not a picture") from None
    except Image.DecompressionBombError as error:
        raise MediaError("unreadable picture", f"{path}: {error}") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        reason = "truncated picture" if "truncated" in str(error) else "unreadable picture"
        raise MediaError(reason, f"{path}: {error}") from None


def cut_tiles(image: Image.Image, spec: ImageSpec, side: int, *, tiled: bool = True) -> np.ndarray:
    """Cut a picture into (N, side, side, 3) uint8 tiles, row by row, the whole picture last.

    A picture of one tile becomes a square as ``spec.single_tile`` says; several tiles stretch it to their grid.
    """
    grid = choose_grid(*image.size, spec.min_tiles, spec.max_tiles, side) if tiled else (1, 1)
    return cut_grid(image, grid, spec, side)


def cut_grid(image: Image.Image, grid: tuple[int, int], spec: ImageSpec, side: int) -> np.ndarray:
    """Cut a picture as `cut_tiles` does, into a given grid of (columns, rows)."""
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
    """Make a picture square: ``squash`` stretches, ``pad`` adds grey, ``crop`` keeps the middle."""
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
    """Turn (N, S, S, 3) uint8 into (N, 3, S, S) float32, mean and deviation of the tower taken out."""
    pixels = torch.from_numpy(np.array(tiles)).permute(0, 3, 1, 2).float().div_(255)
    mean = torch.tensor(vision.mean).view(1, 3, 1, 1)
    std = torch.tensor(vision.std).view(1, 3, 1, 1)
    return pixels.sub_(mean).div_(std)
