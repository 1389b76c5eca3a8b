"""Vision towers and projectors of a recipe: what they take and give."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Discriminator, Field, Tag, field_validator

from vita_train.recipe.base import Strict
from vita_train.recipe.projectors import PROJECTORS, ProjectorKind, projector_of
from vita_train.recipe.tower import TOWERS, TowerSpec
from vita_train.recipe.towers.internvit import InternVitSpec
from vita_train.recipe.visual import TileTokens

#: The kind of settings that name none: VITA-1.5's own.
DEFAULT_TOWER = str(InternVitSpec.model_fields["kind"].default)


def _kind(value: Any) -> Any:
    return (
        value.get("kind", DEFAULT_TOWER)
        if isinstance(value, dict)
        else getattr(value, "kind", None)
    )


#: Settings of every kind of tower, those of plugins included.
if TYPE_CHECKING:
    VisionSpec = TowerSpec
else:
    VisionSpec = Annotated[
        Union[tuple(Annotated[TOWERS[name].spec, Tag(name)] for name in TOWERS)],  # noqa: UP007
        Discriminator(_kind),
    ]


class ProjectorSpec(Strict):
    """Vision features to language embeddings."""

    kind: str = Field(
        default="mlp2x_gelu",
        json_schema_extra={
            "pattern": f"^({'|'.join(PROJECTORS[name].names for name in PROJECTORS)})$"
        },
    )
    """linear; mlpNx_gelu: N layers with GELU between; spp_v1, spp_v2, spp_v3: linear layers around
    2 x 2 averages; ldp: perceptron and two depthwise blocks, the second halving the grid; vanilla,
    minigpt: four tokens in a row become one, with channels interleaved or not; mlp_downsample
    (VILA-1.5): each square of 2 x 2 tokens becomes one, through a norm and a perceptron; identity:
    nothing, where the widths agree; or one of a plugin."""

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        if projector_of(kind) is None:
            raise ValueError(f"there is no projector {kind!r}; there are {', '.join(PROJECTORS)}")
        return kind

    @property
    def declared(self) -> ProjectorKind:
        """What is known of its kind."""
        kind = projector_of(self.kind)
        assert kind is not None  # the kind was checked
        return kind

    def num_tokens(self, side: int) -> int:
        """Return the tokens left of a square of ``side`` x ``side``.

        Raises:
            ValueError: the projector cannot take a square of that side.
        """
        try:
            return self.declared.num_tokens(side)
        except ValueError as error:
            raise ValueError(f"projector {self.kind} {error}") from error


def tile_tokens(vision: TowerSpec, projector: ProjectorSpec) -> TileTokens:
    """Return the tokens that a tile takes behind tower and projector."""
    whole = projector.num_tokens(vision.grid_size)
    merge = vision.merge
    return TileTokens(
        whole,
        vision.merged_tokens if vision.removals else whole,
        merge is not None and merge.slowfast,
    )
