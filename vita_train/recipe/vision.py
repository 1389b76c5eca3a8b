"""Vision towers and projectors: what they take and give. Each kind's defaults are those of its released weights."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from vita_train.recipe.base import Strict

Rgb = tuple[float, float, float]

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class TowerSpec(Strict):
    """What every vision tower states of itself."""

    kind: str
    source: str | None = None
    """Directory, file or hub name with pretrained weights; none trains a stand-in in stage 0.vision."""
    image_size: int
    patch_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    """Stochastic depth of the last block while training; it grows linearly from 0 at the first."""
    mean: Rgb
    std: Rgb

    @property
    def tile_size(self) -> int:
        """Side of a tile as data preparation cuts it, pixels."""
        return self.image_size

    @property
    def grid_size(self) -> int:
        """Side of the square of tokens that the tower gives for a tile."""
        return self.image_size // self.patch_size

    @property
    def num_tokens(self) -> int:
        """Tokens the tower gives for a tile; a projector may leave fewer (``ModelSpec.tokens_per_tile``)."""
        return self.grid_size**2

    @property
    def feature_size(self) -> int:
        """Width of one token."""
        return self.hidden_size

    @model_validator(mode="after")
    def _heads(self) -> TowerSpec:
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}")
        if self.grid_size < 1:
            raise ValueError(f"image_size {self.image_size} holds no patch of patch_size {self.patch_size}")
        return self


class InternVitSpec(TowerSpec):
    """InternViT (transformers' InternVLVisionModel) with its pixel shuffle."""

    kind: Literal["internvit"] = "internvit"
    image_size: int = 448
    """Side of a tile, pixels."""
    patch_size: int = 14
    hidden_size: int = 1024
    num_layers: int = 24
    num_heads: int = 16
    intermediate_size: int = 4096
    drop_path: float = Field(default=0.1, ge=0, lt=1)
    """Stochastic depth of the last block while training; it grows linearly from 0 at the first."""
    feature_scale: float = 0.5
    """Factor on the features before the pixel shuffle; part of the released weights' function."""
    shuffle: int = 2
    """Side of the square of patches folded into one token."""
    mean: Rgb = _IMAGENET_MEAN
    std: Rgb = _IMAGENET_STD

    @property
    def grid_size(self) -> int:
        """Side of the square of shuffled tokens: 16 for 448 px, patch 14, shuffle 2."""
        return self.image_size // self.patch_size // self.shuffle

    @property
    def feature_size(self) -> int:
        """Width of one shuffled token: 4096 for the 300M tower."""
        return self.hidden_size * self.shuffle**2

    @model_validator(mode="after")
    def _grid(self) -> InternVitSpec:
        if self.image_size % (self.patch_size * self.shuffle):
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size x shuffle "
                             f"({self.patch_size} x {self.shuffle})")
        return self


class ContrastiveSpec(TowerSpec):
    """A tower trained against text, whose features are taken before its last block."""

    feature_layer: int = Field(default=-2, le=-1)
    """Which block's output becomes the features: -1 the last, -2 (VITA-1.5) the one before. Blocks after it, and what
    follows them in the released model, are not built: nothing would come of training them."""

    @property
    def num_blocks(self) -> int:
        """Blocks that are built: 23 of the 24 of CLIP ViT-L."""
        return self.num_layers + 1 + self.feature_layer

    @model_validator(mode="after")
    def _blocks(self) -> ContrastiveSpec:
        if self.num_blocks < 1:
            raise ValueError(f"feature_layer {self.feature_layer} leaves no block of num_layers {self.num_layers}")
        return self


class SiglipSpec(ContrastiveSpec):
    """SigLIP (transformers' SiglipVisionModel), at one scale or several; so400m-patch14-384 by default."""

    kind: Literal["siglip"] = "siglip"
    image_size: int = 384
    """Side of the tower's input, pixels. What is left of it beyond whole patches (6 of 384) is not seen."""
    patch_size: int = 14
    hidden_size: int = 1152
    num_layers: int = 27
    num_heads: int = 16
    intermediate_size: int = 4304
    mean: Rgb = (0.5, 0.5, 0.5)
    std: Rgb = (0.5, 0.5, 0.5)
    scales: tuple[int, ...] = ()
    """S2: sides that a tile is seen at, rising from image_size in multiples of it (VITA-1.5: 384, 768, 1152). Tiles are
    cut at the largest; larger views pass in squares of image_size; the features of all are joined."""

    @property
    def tile_size(self) -> int:
        """Side of a tile as data preparation cuts it: that of the largest scale."""
        return self.scales[-1] if self.scales else self.image_size

    @property
    def feature_size(self) -> int:
        """Width of one token: 3456 for so400m at three scales."""
        return self.hidden_size * max(1, len(self.scales))

    @model_validator(mode="after")
    def _scales(self) -> SiglipSpec:
        if self.scales and self.scales[0] != self.image_size:
            raise ValueError(f"scales begin with {self.scales[0]}, not with image_size {self.image_size}")
        wrong = [side for side in self.scales if side % self.image_size]
        if wrong or list(self.scales) != sorted(set(self.scales)):
            raise ValueError(f"scales {list(self.scales)} do not rise in multiples of image_size {self.image_size}")
        return self


class ClipSpec(ContrastiveSpec):
    """CLIP (transformers' CLIPVisionModel); ViT-L/14 at 336 pixels by default."""

    kind: Literal["clip"] = "clip"
    image_size: int = 336
    """Side of a tile, pixels."""
    patch_size: int = 14
    hidden_size: int = 1024
    num_layers: int = 24
    num_heads: int = 16
    intermediate_size: int = 4096
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    """quick_gelu: OpenAI's weights. gelu: most others."""
    mean: Rgb = _CLIP_MEAN
    std: Rgb = _CLIP_STD

    @model_validator(mode="after")
    def _grid(self) -> ClipSpec:
        _whole_patches(self)
        return self


class EvaClipSpec(ContrastiveSpec):
    """EVA-02-CLIP; L/14 at 336 pixels by default."""

    kind: Literal["eva_clip"] = "eva_clip"
    image_size: int = 336
    """Side of a tile, pixels."""
    patch_size: int = 14
    hidden_size: int = 1024
    num_layers: int = 24
    num_heads: int = 16
    intermediate_size: int = 2730
    rope_grid: int = Field(default=16, ge=1)
    """Side of the grid that the rotary positions were trained on; a tile's own grid is laid over it."""
    mean: Rgb = _CLIP_MEAN
    std: Rgb = _CLIP_STD

    @model_validator(mode="after")
    def _grid(self) -> EvaClipSpec:
        _whole_patches(self)
        if self.hidden_size % (4 * self.num_heads):
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of 4 x num_heads {self.num_heads}: "
                             "each head turns pairs of channels by row and by column")
        return self


def _whole_patches(spec: TowerSpec) -> None:
    if spec.image_size % spec.patch_size:
        raise ValueError(f"image_size {spec.image_size} is not a multiple of patch_size {spec.patch_size}")


def _kind(value: Any) -> Any:
    """Return the kind that a vision setting names; VITA-1.5's own where it names none."""
    return value.get("kind", "internvit") if isinstance(value, dict) else getattr(value, "kind", None)


VisionSpec = Annotated[
    Annotated[InternVitSpec, Tag("internvit")]
    | Annotated[SiglipSpec, Tag("siglip")]
    | Annotated[ClipSpec, Tag("clip")]
    | Annotated[EvaClipSpec, Tag("eva_clip")],
    Discriminator(_kind),
]

_MLP = re.compile(r"mlp([1-9]\d?)x_gelu")
#: Projectors besides the perceptrons, and how many tokens of a square of ``side`` x ``side`` each leaves.
_POOLED = ("spp_v1", "spp_v2", "spp_v3")
_MERGED = ("vanilla", "minigpt")
_OTHERS = ("linear", *_POOLED, "ldp", *_MERGED, "identity")


class ProjectorSpec(Strict):
    """Vision features to language embeddings."""

    kind: str = Field(default="mlp2x_gelu", json_schema_extra={"pattern": f"^({_MLP.pattern}|{'|'.join(_OTHERS)})$"})
    """linear; mlpNx_gelu: N layers with GELU between; spp_v1, spp_v2, spp_v3: linear layers around 2 x 2 averages;
    ldp: perceptron and two depthwise blocks, the second halving the grid; vanilla, minigpt: four tokens in a row become
    one, with channels interleaved or not; identity: nothing, where the widths agree."""

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        if kind not in _OTHERS and not _MLP.fullmatch(kind):
            raise ValueError(f"there is no projector {kind!r}; there are mlpNx_gelu (N from 1 to 99), "
                             f"{', '.join(_OTHERS)}")
        return kind

    @property
    def depth(self) -> int:
        """Linear layers of a perceptron; 0 for other kinds."""
        match = _MLP.fullmatch(self.kind)
        return int(match[1]) if match else 0

    def num_tokens(self, side: int) -> int:
        """Return the tokens left of a square of ``side`` x ``side``.

        Raises:
            ValueError: the projector cannot take a square of that side.
        """
        if self.kind in _POOLED:
            if side < 2:
                raise ValueError(f"projector {self.kind} averages 2 x 2 tokens, the tower gives {side} x {side}")
            return (side // 2) ** 2
        if self.kind == "ldp":
            return (-(-side // 2)) ** 2
        if self.kind in _MERGED:
            if side % 2:
                raise ValueError(f"projector {self.kind} merges four tokens to one, the tower gives {side} x {side}")
            return side**2 // 4
        return side**2
