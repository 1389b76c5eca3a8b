"""What a vision tower declares: its settings, the sizes that follow from them, and its names in its
release.

One module of ``vita_train/recipe/towers`` declares each tower; they are found there. The network is
named and imported when a model is built (`vita_train.models.vision`). A package outside this one
adds a tower by calling `register_tower` from its plugin (`vita_train.plugins`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, model_validator

from vita_train.plugins import Registry
from vita_train.recipe.base import Attention, Dropout, Size, Strict
from vita_train.recipe.merging import MergeSpec, kept_tokens, removals

#: Of pixels between 0 and 1, by channel.
_Mean = Annotated[float, Field(ge=0, le=1)]
_Std = Annotated[float, Field(gt=0, le=10)]
Means = tuple[_Mean, _Mean, _Mean]
Stds = tuple[_Std, _Std, _Std]
#: (pattern of our name, their name, letters of the group ``part`` in the order they are stacked).
Rule = tuple[str, str, str]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class TowerSpec(Strict):
    """What every vision tower states of itself."""

    kind: str
    source: str | None = None
    """Directory, file or hub name with pretrained weights; none trains a bootstrap model in stage
    0.vision."""
    image_size: Size
    patch_size: Size
    hidden_size: Size
    num_layers: Size
    num_heads: Size
    intermediate_size: Size
    drop_path: Dropout = 0.0
    """Stochastic depth of the last block while training; it grows linearly from 0 at the first."""
    attention: Attention = "auto"
    """What computes attention within a tile, see ``model.llm.attention``; on processors always
    torch's own. Merged tokens are weighted by a mask, which torch's own takes."""
    mean: Means
    std: Stds
    merge: MergeSpec | None = None
    """Token merging; none keeps every token. clip, and siglip at one scale."""

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
        """Tokens the tower gives for a tile; a projector may leave fewer
        (``ModelSpec.tokens_per_tile``)."""
        return self.grid_size**2

    @property
    def feature_size(self) -> int:
        """Width of one token."""
        return self.hidden_size

    @property
    def num_blocks(self) -> int:
        """Blocks that are built; a tower may leave out the last of ``num_layers``."""
        return self.num_layers

    @property
    def merges(self) -> bool:
        """True if the tower can merge tokens."""
        return False

    @property
    def class_tokens(self) -> int:
        """Tokens before the patches."""
        return 1

    @property
    def positions(self) -> int:
        """Positions that the tower computes for a tile; where it merges, its later blocks compute
        fewer."""
        return (self.image_size // self.patch_size) ** 2 + self.class_tokens

    @property
    def removals(self) -> tuple[int, ...]:
        """Tokens that each block merges away; empty without ``merge``."""
        if self.merge is None or self.merge.keep == 1:
            return ()
        return removals(
            self.merge, self.num_tokens, self.num_blocks, self.num_layers, self.class_tokens
        )

    @property
    def merged_tokens(self) -> int:
        """Tokens left of a tile that is merged."""
        return kept_tokens(self.num_tokens, self.removals, self.class_tokens)

    @property
    def released_activation(self) -> str:
        """Activation as a release's config.json names it; empty where none is to be compared."""
        return ""

    @property
    def norm_eps(self) -> float | None:
        """What the layer norms add to variances; none where it is not to be compared."""
        return None

    @model_validator(mode="after")
    def _merging(self) -> TowerSpec:
        if self.merge is not None and not self.merges:
            raise ValueError(f"a tower of kind {self.kind} cannot merge tokens with these settings")
        _ = self.removals  # raises where they cannot be reached
        return self

    @model_validator(mode="after")
    def _heads(self) -> TowerSpec:
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}"
            )
        if self.grid_size < 1:
            raise ValueError(
                f"image_size {self.image_size} holds no patch of patch_size {self.patch_size}"
            )
        return self


class ContrastiveSpec(TowerSpec):
    """A tower trained against text, whose features are taken before its last block."""

    feature_layer: int = Field(default=-2, ge=-1000, le=-1)
    """Which block's output becomes the features: -1 the last, -2 (VITA-1.5) the one before. Blocks
    after it, and what follows them in the released model, are not built: nothing would come of
    training them."""

    @property
    def num_blocks(self) -> int:
        """Blocks that are built: 23 of the 24 of CLIP ViT-L."""
        # -1 keeps all blocks, -2 does without the last
        return self.num_layers + 1 + self.feature_layer

    @model_validator(mode="after")
    def _blocks(self) -> ContrastiveSpec:
        if self.num_blocks < 1:
            raise ValueError(
                f"feature_layer {self.feature_layer} leaves no block of num_layers "
                f"{self.num_layers}"
            )
        return self


class ViTLargeSpec(ContrastiveSpec):
    """A ViT-L/14 at 336 pixels by default, of whole patches, normalised as CLIP's images were."""

    image_size: Size = 336
    """Side of a tile, pixels."""
    patch_size: Size = 14
    hidden_size: Size = 1024
    num_layers: Size = 24
    num_heads: Size = 16
    mean: Means = CLIP_MEAN
    std: Stds = CLIP_STD

    @model_validator(mode="after")
    def _whole_patches(self) -> ViTLargeSpec:
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}"
            )
        return self


@dataclass(frozen=True)
class ReleaseNames:
    """How a release names a tower's tensors. Ours are those of the network ``model``."""

    markers: tuple[str, ...] = ("vision_tower.", "vision_model.")
    """What a prefix ends in where the tower is part of a larger model."""
    renamed: tuple[tuple[str, str], ...] = ()
    """Patterns of its names, and our names."""
    rules: tuple[Rule, ...] = ()
    """Our names, with ``model.`` before them, in a second naming of the same weights."""
    unused: str = r"(?!)"
    """Names of what the release has and our tower does without."""
    block: str = r"encoder\.layers\.(\d+)\."
    """How the names of a block begin."""
    model_types: tuple[str, ...] = ()
    """``model_type`` of a config.json that describes the tower and nothing else."""


@dataclass(frozen=True)
class TowerKind:
    """One kind of vision tower."""

    spec: type[TowerSpec]
    """Its settings; a field ``kind`` of a literal type with a default tells them from others."""
    implementation: str
    """``package.module:Class`` of the subclass of `vita_train.models.vision.tower.VisionTower`,
    made from the settings.
    """
    release: ReleaseNames = ReleaseNames()


TOWERS: Registry[TowerKind] = Registry("vision tower", "vita_train.recipe.towers.*")


def register_tower(kind: TowerKind) -> None:
    """Add a kind of vision tower.

    Raises:
        VitaError: its name is taken.
    """
    TOWERS.add(str(kind.spec.model_fields["kind"].default), kind)


def is_unused(name: str, spec: TowerSpec) -> bool:
    """Say whether a tensor of a released tower, by our name without ``model.``, is one that no
    feature of a specification depends on."""
    names = TOWERS[spec.kind].release
    if re.match(names.unused, name):
        return True
    block = re.match(names.block, name)
    # Blocks beyond num_layers are not unused but unexpected: the release is of a larger tower
    return bool(block and spec.num_blocks <= int(block[1]) < spec.num_layers)
