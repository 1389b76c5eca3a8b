"""Packed rows that are as full as a recipe allows, for planning: shapes are real, contents not."""

from __future__ import annotations

import torch
from torch import Tensor

from vita_train.data.loading.batch import Batch
from vita_train.recipe.audio import encoder_frames, frames_of_seconds
from vita_train.recipe.schema import Recipe
from vita_train.recipe.special_ids import AUDIO_ID, IGNORE_INDEX, IMAGE_ID
from vita_train.recipe.stage import StageSpec
from vita_train.recipe.visual import most_tiles

#: Documents of text that share what media leave of a row.
_DOCUMENTS = 8


def full_rows(recipe: Recipe, spec: StageSpec, rows: int, *, shown: bool, heard: bool) -> Batch:
    """Return a batch of full rows.

    A row holds pictures of the most tiles until its budget of tiles or tokens is used up, clips of
    the longest that fit, each a document with some text behind it, and text. All text is
    supervised.

    Args:
        recipe: sizes of media.
        spec: the stage, with its budgets.
        rows: how many.
        shown: whether the stage has pictures.
        heard: whether it has clips.
    """
    documents = _media(recipe, spec, shown=shown, heard=heard)
    room = spec.batch.seq_len - sum(positions for _, positions, _ in documents)
    if not documents or room >= _DOCUMENTS:
        documents += [(0, 0, 0)] * max(1, _DOCUMENTS - len(documents))
    share, rest = divmod(room, len(documents))
    ids, places, numbers = [], [], []
    for number, (kind, positions, _) in enumerate(documents, 1):
        text = share + (rest if number == len(documents) else 0)
        ids.append(torch.tensor([kind] * positions + [1] * text, dtype=torch.long))
        places.append(torch.arange(positions + text))
        numbers.append(torch.full((positions + text,), number))
    row = torch.cat(ids)
    labels = torch.where(row > 0, row, IGNORE_INDEX)
    tiles = sum(size for kind, _, size in documents if kind == IMAGE_ID)
    clips = [size for kind, _, size in documents if kind == AUDIO_ID]
    side, bins = recipe.model.vision.tile_size, recipe.model.audio_encoder.num_mel_bins
    merged = spec.merge_visual_tokens and recipe.model.tile_tokens.are_merged
    kinds = [name for name, there in (("image", tiles), ("audio", clips)) if there]
    return Batch(
        input_ids=_times(row, rows),
        labels=_times(labels, rows),
        position_ids=_times(torch.cat(places), rows),
        document_ids=_times(torch.cat(numbers), rows),
        tiles=torch.zeros(rows * tiles, 3, side, side, dtype=torch.uint8) if tiles else None,
        fbank=torch.zeros(rows * len(clips), max(clips), bins) if clips else None,
        fbank_lengths=torch.tensor(clips * rows) if clips else None,
        sample_ids=[str(number) for number in range(rows * len(documents))],
        modalities=frozenset(kinds),
        tile_tokens=torch.full((rows * tiles,), recipe.model.tile_tokens.merged)
        if tiles and merged
        else None,
    )


def _media(
    recipe: Recipe, spec: StageSpec, *, shown: bool, heard: bool
) -> list[tuple[int, int, int]]:
    """Return the media of a row: id of their placeholder, positions, and tiles or frames."""
    model, found = recipe.model, []
    room = spec.batch.seq_len - _DOCUMENTS  # nothing is learned from a row without text
    if heard:
        # With pictures, clips are questions: half of the budget.
        budget = spec.batch.max_audio_frames // (2 if shown else 1)
        longest = frames_of_seconds(recipe.data.audio.max_seconds)
        limit = room // 2 if shown else room
        while (frames := min(longest, budget)) and encoder_frames(frames):
            positions = model.audio_adapter.tokens_of(frames)
            if positions == 0 or positions > limit:
                break
            found.append((AUDIO_ID, positions, frames))
            budget, limit, room = budget - frames, limit - positions, room - positions
    if shown:
        merged = spec.merge_visual_tokens
        each = model.tile_tokens.merged if merged else model.tile_tokens.whole
        left = min(spec.batch.max_tiles, room // each)
        while left > 0:
            tiles = min(left, most_tiles(recipe.data.image))
            found.append((IMAGE_ID, tiles * each, tiles))
            left -= tiles
    return found


def _times(row: Tensor, rows: int) -> Tensor:
    return row.repeat(rows, 1)
