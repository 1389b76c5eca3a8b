"""One row made ready: media decoded once, prompt and labels written, lengths checked against the
stages."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from vita_train.data.media import MediaError
from vita_train.data.media.apart import Decoder
from vita_train.data.media.audio import frames_of
from vita_train.data.media.door import Kind, content_digest
from vita_train.data.media.measure import WHOLE, Measured, MeasureSettings, MediaFile, Span, measure
from vita_train.data.prepare.ctc_vocab import ctc_frames_needed
from vita_train.data.prepare.prompt import Draft, MediaCounts, draft
from vita_train.data.prepare.tokenizer import Tokenizer, batch_ids, plain_ids
from vita_train.data.sources.reading import MediaRef, Reject, Row
from vita_train.data.sources.registry import AudioLimits
from vita_train.data.templates import load_template
from vita_train.errors import VitaError
from vita_train.recipe.audio import encoder_frames
from vita_train.recipe.objectives import OBJECTIVES
from vita_train.recipe.schema import Recipe
from vita_train.recipe.visual import image_tokens, video_tokens

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """The most a sample of one dataset may take, and which stage says so."""

    tokens: int
    tiles: int
    frames: int
    stage: str
    whole: bool = False
    """Tiles count as if no tokens were merged, since a stage merges none."""


@dataclass
class Example:
    """A row as the index stores it."""

    row: int
    id: str
    ids: list[int]
    spans: list[int]
    """Supervised stretches of ``ids``: first, one past the last, first, ..."""
    runs: list[int]
    tokens: int
    tiles: int
    frames: int
    supervised: int
    images: list[str]
    image_tiles: list[int]
    videos: list[str]
    video_frame_indices: list[int]
    """Frames taken of the video."""
    audios: list[str]
    audio_frames: list[int]
    media_digests: list[bytes]
    """Of each file of ``images``, ``videos`` and ``audios``, in this order."""
    seconds: float
    """Of all audio."""
    turns: list[str]
    inserted: int
    """Turn that answers audio not meant for the assistant; -1 without."""
    states: list[int] = field(default_factory=list)
    """For the state head: place of a clip in ``ids``, its class, place, class, ..."""
    features: list[np.ndarray] = field(default_factory=list)
    """float16 filterbank features of each clip, when they are stored."""
    lenient: tuple[str, ...] = ()
    """Leniencies that the record needed."""


@dataclass(frozen=True)
class _LaidOut:
    """A row whose media are measured and whose texts are still to become ids."""

    row: Row
    draft: Draft
    images: list[Measured]
    videos: list[Measured]
    audios: list[Measured]
    clips: list[MediaRef]
    """Recordings, or the chunks of those that are cut."""
    audio_frames: list[int]
    """Of each clip."""


def limits_of(recipe: Recipe, dataset: str) -> Limits:
    """Return what a sample may take: the smallest rows of the stages that pack this dataset, and
    the context.

    A dataset that no stage packs is held to the largest rows of any stage.
    """
    packing = {
        name: spec for name, spec in recipe.stages.items() if OBJECTIVES[spec.objective].packs
    }
    using = {name: spec for name, spec in packing.items() if dataset in spec.datasets}
    context = recipe.model.llm.max_positions
    # No bound: the largest number that the index's int32 can hold
    most = 2**31 - 1
    if not packing:
        return Limits(context, most, most, "model.llm.max_positions")
    choose = min if using else max
    stage, spec = choose((using or packing).items(), key=lambda item: item[1].batch.seq_len)
    chosen = (using or packing).values()
    tokens = min(spec.batch.seq_len, context)
    return Limits(
        tokens,
        choose(s.batch.max_tiles for s in chosen),
        choose(s.batch.max_audio_frames for s in chosen),
        "model.llm.max_positions" if tokens < spec.batch.seq_len else f"stages.{stage}.batch",
        whole=not all(s.merge_visual_tokens for s in chosen),
    )


def is_transcribed(recipe: Recipe, dataset: str) -> bool:
    """Say whether a stage trains a recogniser on a dataset, so that its records must fit one."""
    return any(
        OBJECTIVES[spec.objective].transcribes and dataset in spec.data
        for spec in recipe.stages.values()
    )


class RowEncoder:
    """Turns rows of one dataset into examples.

    Args:
        recipe: settings of data, model and stages.
        tokenizer: the run's tokenizer.
        dataset: name, for its limits.
        roots: set key to media directory.
        decoder: decodes media in a process of its own; without one they are decoded in this one.
        audio: limits of the dataset's recordings, within the recipe's.
    """

    def __init__(
        self,
        recipe: Recipe,
        tokenizer: Tokenizer,
        dataset: str,
        roots: Mapping[str, Path],
        decoder: Decoder | None = None,
        audio: AudioLimits | None = None,
    ) -> None:
        self.recipe = recipe
        self.tokenizer = tokenizer
        self.template = load_template(recipe.data.template)
        self.limits = limits_of(recipe, dataset)
        self.roots = roots
        self.decoder = decoder
        self.audio = audio
        self._real_roots: dict[str, str] = {}
        self._tile_tokens = recipe.model.tile_tokens
        self.recognised = is_transcribed(recipe, dataset)

    def encode(self, row: Row) -> Example | Reject:
        """Decode the media of a row and write its ids, or say why it cannot be used."""
        return self.encode_all([row])[0]

    def encode_all(self, rows: Sequence[Row | Reject]) -> list[Example | Reject]:
        """Encode rows, their texts in one call of the tokenizer; rejects are passed on."""
        laid_out = [
            row if isinstance(row, Reject) else self._attempted(row, partial(self._lay_out, row))
            for row in rows
        ]
        drafts = [each for each in laid_out if isinstance(each, _LaidOut)]
        try:
            ids = batch_ids(self.tokenizer, (text for each in drafts for text in each.draft.texts))
            ids_of: Callable[[str], Sequence[int]] = ids.__getitem__
        except VitaError:
            raise
        except Exception:  # for whichever text it is: each row is to have its own
            ids_of = partial(plain_ids, self.tokenizer)
        return [
            self._attempted(each.row, partial(self._example, each, ids_of))
            if isinstance(each, _LaidOut)
            else each
            for each in laid_out
        ]

    def _attempted(self, row: Row, work: Callable[[], T]) -> T | Reject:
        try:
            return work()
        except MediaError as error:
            return Reject(row.row, error.reason, error.detail, row.id)
        except VitaError:
            raise
        except (
            Exception
        ) as error:  # whatever it is, it is this row's, and the others are not to suffer from it
            return Reject(row.row, "cannot be examined", f"{type(error).__name__}: {error}", row.id)

    def _lay_out(self, row: Row) -> _LaidOut:
        """Decode the media of a row, and put the tokens that they take between its texts.

        Raises:
            MediaError: a file cannot be used.
        """
        data, model = self.recipe.data, self.recipe.model
        turns = len(row.record.conversations)
        if self.template.layout.media_only and turns not in (0, 2):  # documents have none
            why = f"{turns} turns, and the template {self.template.name} has one answer"
            raise MediaError("more than one answer", why)
        tile = self._tile_tokens
        images = [self._measure("image", ref) for ref in row.images]
        span = (row.record.start, row.record.end)
        videos = [self._measure("video", ref, span) for ref in row.videos]
        audios = [self._measure("audio", ref) for ref in row.audios]
        cut = [
            self._clips(recording.samples, ref)
            for recording, ref in zip(audios, row.audios, strict=True)
        ]
        lengths = [
            [ref.cut[1] - ref.cut[0] if ref.cut else recording.samples for ref in refs]
            for recording, refs in zip(audios, cut, strict=True)
        ]
        frames = [
            [frames_of(length, data.audio.sample_rate) for length in each] for each in lengths
        ]
        counts = MediaCounts(
            images=tuple(sum(image_tokens(image.tiles, tile)) for image in images),
            videos=tuple(sum(video_tokens(video.tiles, tile, data.video)) for video in videos),
            # A recording that is cut is one placeholder and several clips
            audios=tuple(tuple(map(model.audio_adapter.tokens_of, each)) for each in frames),
        )
        drafted = draft(
            row.record, self.template, self.tokenizer, counts, state_mode=data.state_mode
        )
        return _LaidOut(
            row,
            drafted,
            images,
            videos,
            audios,
            [ref for refs in cut for ref in refs],
            [count for each in frames for count in each],
        )

    def _example(
        self, laid_out: _LaidOut, ids_of: Callable[[str], Sequence[int]]
    ) -> Example | Reject:
        row, audios, frames = laid_out.row, laid_out.audios, laid_out.audio_frames
        data, model = self.recipe.data, self.recipe.model
        encoded = laid_out.draft.encoded(ids_of)
        tiles = [image.tiles for image in laid_out.images]
        example = Example(
            row=row.row,
            id=row.id,
            ids=encoded.ids,
            spans=[edge for span in encoded.spans for edge in span],
            runs=encoded.runs,
            tokens=encoded.tokens,
            tiles=sum(tiles) + sum(video.tiles for video in laid_out.videos),
            frames=sum(frames),
            supervised=encoded.supervised,
            images=[str(ref) for ref in row.images],
            image_tiles=tiles,
            videos=[str(ref) for ref in row.videos],
            video_frame_indices=[
                index for video in laid_out.videos for index in video.frame_indices
            ],
            audios=[str(ref) for ref in laid_out.clips],
            audio_frames=frames,
            media_digests=self._digests(laid_out),
            seconds=sum(clip.samples for clip in audios) / data.audio.sample_rate,
            turns=row.record.texts,
            inserted=-1 if row.record.inserted_id is None else row.record.inserted_id,
            states=[value for state in encoded.states for value in state],
            lenient=row.lenient,
        )
        if fault := self._too_long(example):
            return Reject(row.row, "too long", fault, row.id)
        if self.recognised and not row.audios:
            return Reject(row.row, "no audio", "has no recording to transcribe", row.id)
        if self.recognised and (fault := self._too_wordy(example)):
            return Reject(row.row, "transcript too long", fault, row.id)
        if data.audio.store_features:
            bins = model.audio_encoder.num_mel_bins
            # Resampled whole and then cut, so that chunks have no edges of the filter
            whole = dict(zip(row.audios, audios, strict=True))
            example.features = [
                self._features(whole[replace(ref, cut=None)], ref, bins) for ref in laid_out.clips
            ]
        return example

    def _digests(self, laid_out: _LaidOut) -> list[bytes]:
        """Return the digest of the file of each image, video and clip."""
        kinds = media_refs(laid_out.row)
        of_file = {
            (kind, ref): content_digest(ref.path(self.roots), kind)
            for kind, refs in kinds
            for ref in refs
        }
        return [
            of_file[kind, replace(ref, cut=None)]
            for kind, refs in (*kinds[:2], ("audio", laid_out.clips))
            for ref in refs
        ]

    def _clips(self, samples: int, ref: MediaRef) -> list[MediaRef]:
        """Return a recording, or its chunks where its audio special set has it cut.

        Raises:
            MediaError: it is shorter or longer than the set allows.
        """
        if self.audio is None:
            return [ref]
        rate = self.recipe.data.audio.sample_rate
        check_special(samples / rate, self.audio, str(ref))
        return [replace(ref, cut=chunk) for chunk in self.audio.chunks(samples, rate)] or [ref]

    def _too_long(self, example: Example) -> str:
        limits = self.limits
        saved = self._tile_tokens.saved(example.tiles, len(example.videos)) if limits.whole else 0
        for name, taken, most in (
            ("positions", example.tokens + saved, limits.tokens),
            ("tiles", example.tiles, limits.tiles),
            ("audio frames", example.frames, limits.frames),
        ):
            if taken > most:
                return f"takes {taken} {name}, {limits.stage} allows {most}"
        return ""

    def _too_wordy(self, example: Example) -> str:
        """CTC cannot align more units than the encoder gives frames; such a row would train
        nothing, unnoticed."""
        kind = self.recipe.model.ctc_head.vocab
        needed, given = (
            ctc_frames_needed(example.turns[-1], kind),
            encoder_frames(example.audio_frames[0]),
        )
        if needed <= given:
            return ""
        return (
            f"the transcript needs {needed} encoder frames by {kind}, {example.audios[0]} gives "
            f"{given}"
        )

    def _measure(self, kind: Kind, ref: MediaRef, span: Span = WHOLE) -> Measured:
        """Decode a file below its root.

        Raises:
            MediaError: it cannot be used, or a link leads out of the root.
        """
        if ref.root not in self._real_roots:  # roots may serve more keys than they list
            self._real_roots[ref.root] = os.path.realpath(self.roots[ref.root])
        path = inside_root(ref, self.roots, self._real_roots[ref.root])
        file = MediaFile(
            kind,
            path,
            tiled=ref.root not in self.recipe.data.image.no_tile_sets,
            span=span,
            resampling=self.audio.resampling if self.audio else None,
        )
        return (
            self.decoder.measure(file)
            if self.decoder
            else measure(file, measure_settings(self.recipe))
        )

    def _features(self, clip: Measured, ref: MediaRef, bins: int) -> np.ndarray:
        from vita_train.data.media.audio import fbank, resampled

        assert clip.wave is not None
        audio = self.recipe.data.audio
        by = (self.audio.resampling if self.audio else None) or audio.resampling
        wave = resampled(clip.wave, clip.rate, audio.sample_rate, by)[slice(*(ref.cut or (None,)))]
        features = fbank(wave, audio.sample_rate, bins).numpy().astype(np.float16)
        if not np.isfinite(features).all():
            raise MediaError(
                "unreadable audio", f"{ref.path(self.roots)}: its features are not finite"
            )
        return features


def check_special(seconds: float, limits: AudioLimits, name: str) -> None:
    """Hold a recording against the limits of its audio special set.

    Raises:
        MediaError: it is shorter or longer.
    """
    if limits.min_seconds <= seconds <= limits.max_seconds:
        return
    fault = "short" if seconds < limits.min_seconds else "long"
    raise MediaError(
        f"audio too {fault}",
        f"{name} lasts {seconds:.3f} s, audio_sets allows {limits.min_seconds:g} to "
        f"{limits.max_seconds:g} s",
    )


def media_refs(row: Row) -> tuple[tuple[Kind, Sequence[MediaRef]], ...]:
    """Return the media files of a row by their kind, in the order of an index."""
    return ("image", row.images), ("video", row.videos), ("audio", row.audios)


def inside_root(ref: MediaRef, roots: Mapping[str, Path], real_root: str) -> Path:
    """Return where a media file lies.

    Raises:
        MediaError: a link leads out of its root.
    """
    path = ref.path(roots)
    real = os.path.realpath(path)
    # By parts of the path: a string may begin with the root's and lie in another folder
    if os.path.commonpath((real, real_root)) != real_root:
        raise MediaError(
            "path outside its root", f"{path} is a link to {real}, outside {real_root}"
        )
    return path


def measure_settings(recipe: Recipe) -> MeasureSettings:
    """Return what the measures of media files depend on."""
    return MeasureSettings(
        recipe.data,
        recipe.model.vision.tile_size,
        recipe.model.audio_adapter,
        with_waves=recipe.data.audio.store_features,
    )
