"""What a recipe will need before anything is run: parameters, memory, tokens of each kind of
sample."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vita_train.errors import RecipeError
from vita_train.planning.parameters import count_adapters, count_parameters, count_quantized
from vita_train.recipe.audio import frames_of_seconds
from vita_train.recipe.model import ModelSpec
from vita_train.recipe.objectives import OBJECTIVES
from vita_train.recipe.schema import Recipe
from vita_train.recipe.selection import modules_needed, modules_read
from vita_train.recipe.stage import StageSpec
from vita_train.recipe.visual import image_tokens, most_tiles, most_video_tiles, video_tokens


@dataclass(frozen=True)
class StagePlan:
    """One stage: what is in memory and what is trained."""

    stage: str
    title: str
    modules: dict[str, int]
    """Parameters of each module in memory, adapters included."""
    trained: dict[str, int]
    """Parameters of each module that are trained."""
    compute_bytes: int
    """Of one weight as it is computed with."""
    zero: int
    """How the engine of the recipe shards: 0 nothing, 1 optimizer, 2 and gradients, 3 and
    weights."""
    rows: int
    """Rows a rank holds at a time."""
    seq_len: int
    """Tokens of a row; 0 where a row is one sample."""
    quantized: int = 0
    """Weights held in 4 or 8 bit."""
    quantized_bytes: int = 0
    """What these take, scales included."""

    def state_bytes(self, zero: int, ranks: int) -> int:
        """Return bytes of weights, gradients and optimizer state on one of ``ranks``, activations
        not included."""
        return sum(self.state_parts(zero, ranks))

    def state_parts(self, zero: int, ranks: int) -> tuple[int, int, int]:
        """Return bytes of weights, of gradients and of optimizer state on one of ``ranks``.

        A trained weight has a gradient of the compute type and two float32 moments of AdamW, and
        below float32 a float32 copy of itself (Rajbhandari et al. 2020, section 3.1: 16 bytes in
        all).
        """
        total, trained = sum(self.modules.values()), sum(self.trained.values())
        weights = (total - self.quantized) * self.compute_bytes + self.quantized_bytes
        gradients = trained * self.compute_bytes
        optimizer = trained * (8 if self.compute_bytes == 4 else 12)
        return (
            weights // (ranks if zero >= 3 else 1),
            gradients // (ranks if zero >= 2 else 1),
            optimizer // (ranks if zero >= 1 else 1),
        )


@dataclass(frozen=True)
class Plan:
    """A whole recipe."""

    name: str
    modules: dict[str, int]
    """Parameters of every module the recipe's stages use."""
    stages: tuple[StagePlan, ...]
    positions: dict[str, int]
    """Tokens of each kind of media, by a name to show."""


def plan_recipe(recipe: Recipe, *, ranks: int = 0) -> Plan:
    """Plan every stage of a recipe on ``ranks`` processes (0: the recipe's own number)."""
    ranks = ranks or recipe.launch.ranks
    used = {name for stage in recipe.stages for name in modules_read(recipe, stage)}
    counts = count_parameters(recipe.model, used)
    stages = tuple(
        _stage(recipe, stage, spec, counts, ranks) for stage, spec in recipe.stages.items()
    )
    return Plan(recipe.name, counts, stages, media_positions(recipe))


def plan_stage(recipe: Recipe, stage: str, *, ranks: int = 0) -> StagePlan:
    """Plan one stage of a recipe on ``ranks`` processes (0: the recipe's own number), with the
    modules that it cannot do without."""
    counts = count_parameters(recipe.model, modules_needed(recipe, stage))
    return _stage(recipe, stage, recipe.stages[stage], counts, ranks or recipe.launch.ranks, counts)


def media_positions(recipe: Recipe) -> dict[str, int]:
    """Return the tokens that images, videos and clips take."""
    tile = recipe.model.tile_tokens
    image, video = recipe.data.image, recipe.data.video
    tiles = most_tiles(image)
    videos = {
        frames: most_video_tiles(frames, image, video)
        for frames in (video.min_frames, video.max_frames)
    }
    shown = {
        f"video, {frames} frames" + (f" (at most {count} tiles)" if count > frames else ""): sum(
            video_tokens(count, tile, video)
        )
        for frames, count in videos.items()
    }
    seconds = {
        f"audio, {length:g} s": audio_positions(recipe.model, length)
        for length in sorted({1.0, 10.0, recipe.data.audio.max_seconds})
    }
    return {
        "image, one tile": tile.merged,
        f"image, at most ({tiles} tiles)": sum(image_tokens(tiles, tile)),
        **shown,
        **seconds,
    }


def audio_positions(spec: ModelSpec, seconds: float) -> int:
    """Return the tokens of a clip: frames of 25 ms every 10 ms, subsampled by 4, then by the
    adapter."""
    return spec.audio_adapter.tokens_of(frames_of_seconds(seconds))


def gpu_bytes(name: str) -> int:
    """Return the memory of a GPU given as ``h100-80`` or ``80``: the number is gigabytes.

    Raises:
        RecipeError: the name does not end in a number.
    """
    size = name.rpartition("-")[2]
    if not size.isdigit() or int(size) == 0:
        raise RecipeError(
            f"unknown GPU {name!r}",
            code="VT-RECIPE-025",
            where="--gpu",
            remedy="end the name with its memory in GB: h100-80, l40s-48",
        )
    return int(size) * 10**9


def _stage(
    recipe: Recipe,
    stage: str,
    spec: StageSpec,
    counts: dict[str, int],
    ranks: int,
    only: Iterable[str] = (),
) -> StagePlan:
    names: Iterable[str] = only or modules_read(recipe, stage)
    dtype = spec.engine.dtype or recipe.model.dtype
    zero = {"torch": 0, "fsdp2": 3, "deepspeed": spec.engine.zero}[spec.engine.kind]
    rows = spec.batch.micro_rows(ranks)
    adapters = count_adapters(recipe.model, spec.lora) if spec.lora else {}
    added = (
        count_adapters(recipe.model, spec.lora.model_copy(update={"bias": "none"}))
        if spec.lora
        else {}
    )
    quantized = count_quantized(recipe.model, spec.quantize) if spec.quantize else (0, 0)
    return StagePlan(
        stage,
        spec.title,
        {name: counts[name] + added.get(name, 0) for name in names},
        {name: adapters.get(name, counts[name]) for name in spec.trainable if name in counts},
        4 if dtype == "float32" else 2,
        zero,
        rows,
        spec.batch.seq_len if OBJECTIVES[spec.objective].packs else 0,
        *quantized,
    )
