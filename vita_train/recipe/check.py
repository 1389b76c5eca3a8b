"""What is wrong with a recipe as a whole, although each setting is right by itself."""

from __future__ import annotations

from math import isqrt

from vita_train.errors import RecipeError
from vita_train.recipe.modules import AUDIO_PATH
from vita_train.recipe.objectives import OBJECTIVES
from vita_train.recipe.schema import Recipe
from vita_train.recipe.selection import modules_needed, trainers
from vita_train.recipe.visual import SMALLEST_GRID


def check_recipe(recipe: Recipe) -> None:
    """Check what spans several settings.

    Raises:
        RecipeError: every problem found, each with the setting it is about.
    """
    problems = [] if recipe.stages else ["stages is empty: there is nothing to train"]
    problems += [
        *_never_trained(recipe),
        *_sizes(recipe),
        *_batches(recipe),
        *_states(recipe),
        *_untils(recipe),
    ]
    if problems:
        raise RecipeError(
            "\n  ".join(
                [f"cannot be run, {len(problems)} problem{'s'[: len(problems) - 1]}", *problems]
            ),
            code="VT-RECIPE-027",
            where=recipe.name,
        )


def _never_trained(recipe: Recipe) -> list[str]:
    """A frozen module whose weights would still be the random ones it was made with, or one without
    weights trained."""
    pretrained = recipe.model.pretrained | set(recipe.weights)
    reported: set[str] = set()  # once is enough
    problems = []
    for stage, spec in recipe.stages.items():
        trained, adapted = set(spec.trainable), set(spec.adapted)
        # An adapter rests on weights that are there already: to train one is not to make the module
        there = (trained - adapted) | pretrained | set(trainers(recipe, stage))
        missing = [name for name in modules_needed(recipe, stage) if name not in there | reported]
        problems += [
            f"stages.{stage} {'adapts' if name in adapted else 'reads'} {name} frozen, but no "
            f"stage before it "
            f"trains {name} and the recipe names no pretrained source (weights.{name} can name one)"
            for name in missing
        ]
        problems += [
            f"stages.{stage}.trainable names {name}, which has no weights in this model"
            for name in sorted(trained & recipe.model.weightless)
        ]
        reported |= set(missing)
    return problems


def _sizes(recipe: Recipe) -> list[str]:
    model, problems = recipe.model, []
    decoder = model.speech_decoder
    # A recipe that never speaks need not think of a decoder that is as large as the published
    # model's.
    if any("speech_decoder" in modules_needed(recipe, stage) for stage in recipe.stages):
        if model.llm.hidden_size % decoder.width:
            problems.append(
                f"model.llm.hidden_size {model.llm.hidden_size} is not a multiple of "
                f"speech_decoder.width {decoder.width}"
            )
        if model.codec.num_codebooks > 1:
            problems.append(
                f"model.codec has {model.codec.code_groups} x {model.codec.code_residuals} "
                f"codebooks, but the speech decoder writes one code a position: set code_groups "
                f"and code_residuals to 1, or train the codec alone"
            )
        if decoder.width % (2 * decoder.num_heads):
            problems.append(
                f"model.speech_decoder.width {decoder.width} is not an even multiple of num_heads "
                f"{decoder.num_heads}: rotary positions turn pairs of channels of each head"
            )
    prompted = [stage for stage, spec in recipe.stages.items() if "audio_prompt" in spec.trainable]
    if prompted and not model.audio_adapter.prompt_tokens:
        problems.append(
            f"stages.{prompted[0]} trains audio_prompt, but model.audio_adapter.prompt_tokens is 0"
        )
    per_tile = model.tokens_per_tile
    if recipe.data.video.slowfast and (
        isqrt(per_tile) ** 2 != per_tile or isqrt(per_tile) < SMALLEST_GRID
    ):
        problems.append(
            f"data.video.slowfast pools square grids of {SMALLEST_GRID} x {SMALLEST_GRID} tokens "
            f"or more, "
            f"but tower and projector give {per_tile} tokens a tile"
        )
    merge = model.vision.merge
    if merge is not None and recipe.data.video.slowfast:
        problems.append(
            "data.video.slowfast pools the tokens of frames and model.vision.merge merges them: "
            "leave one of them out"
        )
    if merge is not None and merge.slowfast and recipe.data.video.tile_frames:
        problems.append(
            "model.vision.merge.slowfast keeps the first frame of a video whole, but "
            "data.video.tile_frames makes several tiles of it: leave one of them out"
        )
    if recipe.tokenizer.source is None and recipe.tokenizer.vocab_size > model.llm.vocab_size:
        problems.append(
            f"tokenizer.vocab_size {recipe.tokenizer.vocab_size} is above model.llm.vocab_size "
            f"{model.llm.vocab_size}"
        )
    return problems


def _batches(recipe: Recipe) -> list[str]:
    positions, ranks, problems = recipe.model.llm.max_positions, recipe.launch.ranks, []
    for stage, spec in recipe.stages.items():
        if OBJECTIVES[spec.objective].packs and spec.batch.seq_len > positions:
            problems.append(
                f"stages.{stage}.batch.seq_len {spec.batch.seq_len} is above "
                f"model.llm.max_positions {positions}"
            )
        tiles = recipe.model.tile_tokens
        tile = tiles.merged if spec.merge_visual_tokens and not tiles.first_whole else tiles.whole
        if "projector" in modules_needed(recipe, stage) and spec.batch.seq_len < tile:
            problems.append(
                f"stages.{stage}.batch.seq_len {spec.batch.seq_len} is below the {tile} positions "
                f"of "
                "one tile: no image would fit"
            )
        if spec.batch.global_batch_size < ranks * spec.batch.grad_accum:
            problems.append(
                f"stages.{stage}.batch.global_batch_size {spec.batch.global_batch_size} is below "
                f"{ranks} ranks x "
                f"batch.grad_accum {spec.batch.grad_accum}: some processes would have nothing to do"
            )
    return problems


def _states(recipe: Recipe) -> list[str]:
    """Replies are marked or a head tells their state; the two cannot be mixed."""
    family, mode, problems = recipe.model.llm.family, recipe.data.state_mode, []
    training = [stage for stage, spec in recipe.stages.items() if "state_head" in spec.trainable]
    if family == "qwen2p5_fo_instruct" and mode != "head":
        problems.append(
            f"model.llm.family {family} has a state head, but data.state_mode is {mode}"
        )
    hearing = [
        spec
        for spec in recipe.stages.values()
        if OBJECTIVES[spec.objective].reads == "tokens" and {*spec.trainable} & {*AUDIO_PATH}
    ]
    if mode == "head" and not training and hearing:
        problems.append("data.state_mode is head and a stage hears, but no stage trains state_head")
    if mode != "head":
        problems += [
            f"stages.{stage} trains state_head, but data.state_mode is {mode}" for stage in training
        ]
    return problems


def _untils(recipe: Recipe) -> list[str]:
    """Measures to train until that the stage could never take."""
    problems = []
    for stage, spec in recipe.stages.items():
        whole = spec.engine.kind == "torch" or (
            spec.engine.kind == "deepspeed" and spec.engine.zero < 3
        )
        for name in {
            **spec.until,
            **{name: gate for phase in spec.curriculum for name, gate in phase.until.items()},
        }:
            dataset, _, rest = name.partition(".")
            # The objective's own dev losses are taken by the engine itself, sharded or not
            if dataset == "dev":
                continue
            if dataset not in spec.datasets or not rest.startswith("dev."):
                problems.append(
                    f"stages.{stage} trains until {name}: name it <dataset>.dev.<measure> with a "
                    f"dataset "
                    f"of the stage ({', '.join(spec.datasets)}), or dev.<metric>"
                )
            elif not whole:
                problems.append(
                    f"stages.{stage} trains until {name}, which no process can measure while the "
                    f"weights "
                    "are spread over all of them: use dev.loss or another dev.<metric>"
                )
    return problems
