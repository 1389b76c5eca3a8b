"""Which settings of a recipe shape the prepared corpus, so that nothing else prepares it again."""

from __future__ import annotations

from typing import Any

from vita_train.recipe.data import DataSpec
from vita_train.recipe.schema import Recipe


def corpus_settings(recipe: Recipe) -> dict[str, Any]:
    """Return the settings that the prepared corpus depends on, as plain values; where the data come
    from left out.

    Stages count through their row budgets alone: a record longer than the rows it would be packed
    into is rejected.
    """
    model = recipe.model
    return {
        "data": data_settings(recipe.data),
        "tokenizer": recipe.tokenizer.model_dump(mode="json"),
        "units": model.ctc_head.vocab,
        "vision": [
            model.vision.tile_size,
            model.tokens_per_tile,
            list(model.vision.mean),
            list(model.vision.std),
            *([model.vision.merge.model_dump(mode="json")] if model.vision.merge else []),
        ],
        "audio": model.audio_encoder.num_mel_bins,
        "adapter": model.audio_adapter.model_dump(mode="json"),
        "llm": [model.llm.vocab_size, model.llm.max_positions],
        "stages": {
            stage: [
                spec.objective,
                list(spec.datasets),
                spec.batch.seq_len,
                spec.batch.max_tiles,
                spec.batch.max_audio_frames,
                # Added only where it says something, so that corpora from before the setting keep
                # their digest
                *([] if spec.merge_visual_tokens else ["whole"]),
            ]
            for stage, spec in recipe.stages.items()
        },
    }


def data_settings(data: DataSpec) -> dict[str, Any]:
    """Return how data are read, as plain values; where they come from left out.

    Two ways to name the same frame rate are the same, and what is switched off does not count.
    """
    settings = data.model_dump(mode="json", exclude={"source", "prepared"})
    video = settings["video"]
    video["fps"] = data.video.rate
    # Its rate stands in fps now
    del video["variant"]
    if not data.video.tile_frames:
        del video["tile_budget"]
    return settings
