"""What a run trains on, and how media become tokens."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vita_train.recipe.base import Strict


class SynthSource(Strict):
    """The embedded synthetic world: pictures of shapes, a grammar of sentences, synthesised speech."""

    kind: Literal["synth"] = "synth"
    scale: float = Field(default=1.0, gt=0)
    """Multiplies the number of training records of every dataset."""
    test_size: int = 400
    """Records per dev and test slice (before scale; never scaled)."""


class StampsSource(Strict):
    """Pictures, captions and recorded descriptions of the Debian package tuxpaint-stamps-default."""

    kind: Literal["stamps"] = "stamps"
    package: str | None = None
    """Path of a .deb already fetched; none asks apt-get for it."""
    language: str = "en"
    """Language of the captions, as the package writes it (``en``, ``fr``, ``pt_BR``)."""
    recordings: tuple[str, ...] = ()
    """Languages whose recorded descriptions are used; none uses all there are."""


class RecordsSource(Strict):
    """The user's own records: a registry file naming datasets, splits, record files and media roots."""

    kind: Literal["records"] = "records"
    registry: str
    """Path of the registry file (JSON or YAML)."""


Source = Annotated[SynthSource | StampsSource | RecordsSource, Field(discriminator="kind")]


class ImageSpec(Strict):
    """Dynamic tiling."""

    min_tiles: int = Field(default=1, ge=1)
    max_tiles: int = Field(default=12, ge=1)
    thumbnail: bool = True
    """Append the whole picture as the last tile when there is more than one."""
    single_tile: Literal["squash", "pad", "crop"] = "squash"
    """How a picture that is not tiled becomes a square."""
    no_tile_sets: tuple[str, ...] = ()
    """Set keys whose pictures are never tiled (NoPatchSets)."""


class VideoSpec(Strict):
    """Frame sampling."""

    fps: float = Field(default=1.0, gt=0)
    min_frames: int = Field(default=4, ge=1)
    max_frames: int = Field(default=16, ge=1)


class AudioSpec(Strict):
    """Filterbank features: Kaldi fbank, 25 ms window, 10 ms shift, dither 0."""

    sample_rate: int = 16000
    min_seconds: float = 0.1
    max_seconds: float = 60.0
    store_features: bool = False
    """Write float16 features beside the index when preparing, instead of computing them at each visit."""


StateMode = Literal["none", "glyph", "digit", "head"]
"""How a reply tells what it answers: a spoken query, sound not meant for the assistant, or a typed query."""


class DataSpec(Strict):
    """Source, template and media settings."""

    source: Source = SynthSource()
    template: str = "qwen2p5_instruct"
    """Shipped template name, or path of a template file."""
    state_mode: StateMode = "glyph"
    """glyph: a state mark opens each reply (audio query, negative query, text query). digit: the same, written as
    ``<1>``, ``<2>`` or ``<3>`` for tokenizers that have no such glyphs. head: no mark is written; module state_head
    tells from the end of each clip whether it was meant for the assistant."""
    image: ImageSpec = ImageSpec()
    video: VideoSpec = VideoSpec()
    audio: AudioSpec = AudioSpec()
    max_reject_share: float = Field(default=0.0, ge=0, le=1)
    """Share of rejected rows above which preparation refuses to go on. Rejected rows are always listed."""
