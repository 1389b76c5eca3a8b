"""What is wrong with a recipe as a whole, although each setting is right by itself."""

from __future__ import annotations

from math import prod

from vita_train.errors import RecipeError
from vita_train.recipe.ladder import MODULES_NEEDED, STAGES
from vita_train.recipe.schema import Recipe


def check_recipe(recipe: Recipe) -> None:
    """Check what spans several settings.

    Raises:
        RecipeError: every problem found, each with the setting it is about.
    """
    problems = [] if recipe.stages else ["stages is empty: there is nothing to train"]
    problems += [*_never_trained(recipe), *_sizes(recipe), *_batches(recipe)]
    if problems:
        raise RecipeError("\n  ".join([f"cannot be run, {len(problems)} problem{'s'[:len(problems) - 1]}", *problems]),
                          where=recipe.name)


def _never_trained(recipe: Recipe) -> list[str]:
    """A frozen module whose weights would still be the random ones it was made with."""
    given = {name for name, source in (("llm", recipe.model.llm.source), ("vision", recipe.model.vision.source))
             if source is not None} | set(recipe.model.sources)
    problems = []
    for stage in STAGES:
        if stage not in recipe.stages:
            continue
        trained = set(recipe.stages[stage].trainable)
        missing = [name for name in MODULES_NEEDED[stage] if name not in trained | given]
        problems += [f"stages.{stage} reads {name} frozen, but no stage before it trains {name} and the recipe names "
                     "no pretrained source" for name in missing]
        given |= trained | set(missing)
    return problems


def _sizes(recipe: Recipe) -> list[str]:
    model, problems = recipe.model, []
    if model.codec.kind == "waveform" and prod(model.codec.upsample_rates) != model.codec.hop_length:
        problems.append(f"model.codec.upsample_rates multiply to {prod(model.codec.upsample_rates)}, but hop_length "
                        f"is {model.codec.hop_length}")
    if recipe.data.image.min_tiles > recipe.data.image.max_tiles:
        problems.append("data.image.min_tiles is above max_tiles")
    if recipe.data.video.min_frames > recipe.data.video.max_frames:
        problems.append("data.video.min_frames is above max_frames")
    if recipe.tokenizer.source is None and recipe.tokenizer.vocab_size > model.llm.vocab_size:
        problems.append(f"tokenizer.vocab_size {recipe.tokenizer.vocab_size} is above model.llm.vocab_size "
                        f"{model.llm.vocab_size}")
    return problems


def _batches(recipe: Recipe) -> list[str]:
    positions, ranks, problems = recipe.model.llm.max_positions, recipe.launch.ranks, []
    for stage, spec in recipe.stages.items():
        if spec.objective == "next_token" and spec.batch.row_tokens > positions:
            problems.append(f"stages.{stage}.batch.row_tokens {spec.batch.row_tokens} is above "
                            f"model.llm.max_positions {positions}")
        if spec.batch.rows < ranks:
            problems.append(f"stages.{stage}.batch.rows {spec.batch.rows} is below the {ranks} ranks: some "
                            "processes would have nothing to do")
        if spec.optim.kind == "muon" and spec.engine.kind != "torch":
            problems.append(f"stages.{stage}.optim.kind muon needs engine.kind torch")
    return problems
