"""Batches for the small model of these tests."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vita_train.data.loading.batch import Batch
from vita_train.models.language.decoder import Decoded, decode
from vita_train.models.omni import Omni, document_starts
from vita_train.recipe.special_ids import AUDIO_ID, IMAGE_ID


def document(seed: int, text: int, *, tiles: int = 0, frames: int = 0) -> Batch:
    """One document in one row: some text, tiles (4 positions each), a clip, text again."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(0, 97, (text,), generator=generator)
    positions = (((frames - 1) // 2 - 1) // 2 + 1) // 2 if frames else 0
    media = torch.tensor([IMAGE_ID] * 4 * tiles + [AUDIO_ID] * positions, dtype=torch.long)
    ids = torch.cat((words[: text // 2], media, words[text // 2 :]))
    labels = torch.where(torch.arange(len(ids)) >= len(ids) - text // 2, ids, -100)
    return Batch(
        input_ids=ids[None],
        position_ids=torch.arange(len(ids))[None],
        document_ids=torch.ones(1, len(ids), dtype=torch.long),
        labels=labels[None],
        tiles=torch.randn(tiles, 3, 32, 32, generator=generator) if tiles else None,
        fbank=torch.randn(1, frames, 80, generator=generator) if frames else None,
        fbank_lengths=torch.tensor([frames]) if frames else None,
        sample_ids=[f"sample-{seed}"],
        modalities=frozenset({"image"} if tiles else ()) | frozenset({"audio"} if frames else ()),
    )


def pack(rows: list[list[Batch]]) -> Batch:
    """Lay documents end to end in rows and pad the rows on the right."""
    width = max(sum(doc.input_ids.shape[1] for doc in row) for row in rows)
    columns: dict[str, list[Tensor]] = {
        "input_ids": [],
        "labels": [],
        "position_ids": [],
        "document_ids": [],
    }
    for row in rows:
        ids = torch.cat([doc.input_ids[0] for doc in row])
        padding = width - len(ids)
        numbers = torch.cat(
            [torch.full((doc.input_ids.shape[1],), k + 1) for k, doc in enumerate(row)]
        )
        places = torch.cat([doc.position_ids[0] for doc in row])
        labels = torch.cat([doc.labels[0] for doc in row])
        for name, values, fill in (
            ("input_ids", ids, 0),
            ("labels", labels, -100),
            ("position_ids", places, 0),
            ("document_ids", numbers, 0),
        ):
            columns[name].append(nn.functional.pad(values, (0, padding), value=fill))
    documents = [doc for row in rows for doc in row]
    tiles = [doc.tiles for doc in documents if doc.tiles is not None]
    clips = [doc.fbank[0] for doc in documents if doc.fbank is not None]
    return Batch(
        **{name: torch.stack(values) for name, values in columns.items()},
        tiles=torch.cat(tiles) if tiles else None,
        fbank=nn.utils.rnn.pad_sequence(clips, batch_first=True) if clips else None,
        fbank_lengths=torch.tensor([len(clip) for clip in clips]) if clips else None,
        sample_ids=[name for doc in documents for name in doc.sample_ids],
        modalities=frozenset().union(*(doc.modalities for doc in documents)),
    )


def by_kernel(omni: Omni, batch: Batch) -> Decoded:
    """What the variable-length kernel makes of a batch, as on a GPU; `plain_varlen` must stand in
    its place."""
    starts = document_starts(batch.document_ids)
    read = decode(
        omni.llm,
        omni.embed(batch).flatten(0, 1)[None],
        batch.position_ids.flatten()[None],
        None,
        routers=True,
        cu_seq_lens_q=starts,
        max_length_q=int(starts.diff().max()),
        document_kernel="varlen",
    )
    return read._replace(hidden=read.hidden.view(*batch.input_ids.shape, -1))


def plain_varlen(query, key, value, starts, _k, longest, _l, *, scale, window_size, enable_gqa):
    """What torch documents of its kernel, which runs on GPUs only: documents (positions, heads,
    size) one by one."""
    assert (window_size, enable_gqa, longest) == ((-1, 0), True, int(starts.diff().max()))
    parts = []
    for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        q, k, v = (part[start:end].transpose(0, 1)[None] for part in (query, key, value))
        mixed = nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scale, enable_gqa=True
        )
        parts.append(mixed[0].transpose(0, 1))
    return torch.cat(parts)
