"""What a run trains on, and how media become tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from pydantic import Field, model_validator

from vita_train.recipe.base import MAX_NAME, Count, SampleRate, Share, Size, Strict
from vita_train.recipe.sources import (
    SOURCES,
    CatalogueSource,
    RecordsSource,
    StampsSource,
    SynthArchivesSource,
    SynthSource,
    SynthWebSource,
)

#: Every kind of source, those of plugins included.
if TYPE_CHECKING:
    Source = (
        SynthSource
        | SynthWebSource
        | SynthArchivesSource
        | StampsSource
        | RecordsSource
        | CatalogueSource
    )
else:
    Source = Annotated[
        Union[tuple(SOURCES[name].spec for name in SOURCES)],  # noqa: UP007
        Field(discriminator="kind"),
    ]


class ImageSpec(Strict):
    """Dynamic tiling."""

    min_tiles: Size = 1
    max_tiles: int = Field(default=12, ge=1, le=4096)
    thumbnail: bool = True
    """Append the whole image as the last tile when there is more than one."""
    single_tile: Literal["squash", "pad", "crop"] = "squash"
    """How an image that is not tiled becomes a square."""
    no_tile_sets: tuple[str, ...] = ()
    """Set keys whose images and video frames are never tiled (NoPatchSets)."""

    @model_validator(mode="after")
    def _bounds(self) -> ImageSpec:
        if self.min_tiles > self.max_tiles:
            raise ValueError(f"min_tiles {self.min_tiles} is above max_tiles {self.max_tiles}")
        return self


#: Frames that a mosaic shows, two by two.
FRAMES_OF_MOSAIC = 4
#: Most tiles of a video for which the public rules with a budget say anything.
MOST_BUDGETED = 64
#: Frames a second of each named way to sample videos.
_VIDEO_RATES = {"paper": 1.0, "code": 3.0}


class VideoSpec(Strict):
    """Frame sampling. How many frames are taken follows from the rate, within the bounds."""

    variant: Literal["paper", "code"] | None = None
    """Rate of VITA-1.5: one frame a second as its paper says, or three as its public training code
    has it. Where neither this nor ``fps`` is stated it is the paper's."""
    fps: float | None = Field(default=None, gt=0, le=1000)
    """Frames a second, instead of a variant."""
    min_frames: Count = 4
    short: Literal["spread", "published"] = "spread"
    """Which frames a clip has that holds fewer than ``min_frames`` at this rate. spread: as many
    as asked for, evenly over the clip. published (VITA-1.5): those at this rate, repeated."""
    max_frames: int = Field(default=16, ge=1, le=100_000)
    tile_frames: bool = False
    """Tile frames as images are, as far as ``tile_budget`` allows; which ones, the sample's seed
    draws."""
    tile_budget: Count = 16
    """Tiles of a video up to which frames are tiled; every frame has one in any case."""
    slowfast: bool | Literal["v0", "v1", "v3"] = False
    """Tiles of a video keep fewer tokens than 16 x 16; other grids to scale. true: every fourth
    tile 12 x 12, the others 7 x 7. v0, v1: as many as a budget of 5200 or 4096 tokens allows, the
    same for every tile up to 30 or 28 tiles, with every fourth keeping more up to 64; v3: every
    sixteenth tile 12 x 12, the others 6 x 6. These three the public code has and does not use."""
    mosaic: bool = False
    """Four frames are preceded by a tile that shows them together, two by two; frames are as many
    as make whole fours."""

    @property
    def rate(self) -> float:
        """Frames a second that are aimed at."""
        return self.fps if self.fps is not None else _VIDEO_RATES[self.variant or "paper"]

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        # Written out before validation, so that a recipe that is dumped says which rate it means
        if isinstance(value, dict) and value.get("variant") is None and value.get("fps") is None:
            return {**value, "variant": "paper"}
        return value

    @model_validator(mode="after")
    def _one_rate(self) -> VideoSpec:
        if self.variant is not None and self.fps is not None:
            raise ValueError(
                f"variant {self.variant} means fps {_VIDEO_RATES[self.variant]:g}, but fps is "
                f"{self.fps:g}; state one of them and set the other to null"
            )
        return self

    @model_validator(mode="after")
    def _bounds(self) -> VideoSpec:
        if self.min_frames > self.max_frames:
            raise ValueError(f"min_frames {self.min_frames} is above max_frames {self.max_frames}")
        if self.mosaic and self.max_frames < FRAMES_OF_MOSAIC:
            raise ValueError(f"mosaic shows four frames, max_frames is {self.max_frames}")
        if self.mosaic and self.tile_frames:
            raise ValueError("mosaic and tile_frames are two ways to cut a video: take one")
        most = max(self.max_frames, self.tile_budget if self.tile_frames else 0)
        # A tile more for every four frames
        most += most // FRAMES_OF_MOSAIC if self.mosaic else 0
        if self.slowfast in ("v0", "v1") and most > MOST_BUDGETED:
            raise ValueError(
                f"slowfast {self.slowfast} has no rule for more than {MOST_BUDGETED} tiles, and a "
                f"video may have {most}"
            )
        return self


#: What changes the rate of recordings.
Resampling = Literal["torchaudio", "soxr"]


class AudioSpec(Strict):
    """Filterbank features: Kaldi fbank, 25 ms window, 10 ms shift, dither 0."""

    sample_rate: SampleRate = 16000
    min_seconds: float = Field(default=0.1, ge=0, le=86_400)
    max_seconds: float = Field(default=60.0, gt=0, le=86_400)
    channel: Literal["mix", "first"] = "mix"
    """Of audio with several channels: mix takes the mean of those that carry audio (where they
    cancel each other, the loudest alone); first (VITA-1.5) the first, and rejects a clip where that
    one is silent."""
    resampling: Resampling = "torchaudio"
    """What brings recordings of another rate to this one. torchaudio: a windowed sinc, with which
    VITA-1.5's features were made. soxr: sharper and faster; its bands near half the rate differ."""
    store_features: bool = False
    """Write float16 features beside the index when preparing, instead of computing them at each
    visit."""

    @model_validator(mode="after")
    def _bounds(self) -> AudioSpec:
        if self.min_seconds > self.max_seconds:
            raise ValueError(
                f"min_seconds {self.min_seconds:g} is above max_seconds {self.max_seconds:g}"
            )
        return self


StateMode = Literal["none", "glyph", "digit", "head"]
"""How a reply tells what it answers: a spoken query, audio not meant for the assistant, or a typed
query."""


class DataSpec(Strict):
    """Sources, template and media settings."""

    source: dict[
        Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=MAX_NAME)], Source
    ] = {}
    """Where records come from: one or several sources, by names of your own. The datasets of all of
    them make up one registry, so that no two may have a name in common. A recipe cannot do without,
    unless it names what is prepared; how data are read can."""
    prepared: str = Field(default="", max_length=4096)
    """A prepared corpus that is taken as it is, in the place of sources: a folder that `data
    prepare` or `data tools merge_sharded_data` wrote, or the ``prepare/corpus`` of another run. One
    that was prepared with other settings, template or tokenizer is refused."""
    template: str = "qwen2p5_instruct"
    """Shipped template name, or path of a template file."""
    state_mode: StateMode = "glyph"
    """glyph: a state mark opens each reply (audio query, negative query, text query). digit: the
    same, written as ``<1>``, ``<2>`` or ``<3>`` for tokenizers that have no such glyphs. head: no
    mark is written; module state_head tells from the end of each clip whether it was meant for the
    assistant."""
    image: ImageSpec = ImageSpec()
    video: VideoSpec = VideoSpec()
    shared_position_stride: Count = 1
    """Tokens of images and videos that share one rotary position; 1 gives each its own."""
    audio: AudioSpec = AudioSpec()
    max_reject_share: Share = 0.0
    """Share of rejected rows above which preparation refuses to continue. Rejected rows are always
    listed."""
