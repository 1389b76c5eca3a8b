"""Captions of many images and videos, one after the other, as records that a judge can score."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from vita_train.data.media.door import Kind
from vita_train.data.media.endings import ENDINGS, media_kind
from vita_train.errors import UserError
from vita_train.inference.chat import Chat
from vita_train.models.vision.merging import let_merge
from vita_train.models.vision.tower import VisionTower
from vita_train.recipe.merging import MergeSpec
from vita_train.recipe.schema import Recipe
from vita_train.recipe.special_ids import IMAGE_ID

_SHOWN: tuple[Kind, ...] = ("image", "video")


@dataclass(frozen=True)
class Captioned:
    """One file and what the model said of it."""

    id: str
    """The file's path below its root."""
    caption: str = ""
    visual_tokens: int = 0
    """Positions that the file filled in the language model."""
    error: str = ""
    """Why there is no caption. A file that cannot be used is no empty caption."""


def media_files(place: Path) -> list[Path]:
    """Return the images and videos of a folder and the folders in it, sorted; of a file itself.

    Raises:
        UserError: there are none.
    """
    if place.is_file():
        return [place]
    found = sorted(path for path in place.rglob("*") if media_kind(path) in _SHOWN)
    if not found:
        endings = ", ".join(ending for kind in _SHOWN for ending in ENDINGS[kind])
        raise UserError(
            "there is no image or video",
            code="VT-USE-287",
            where=str(place),
            remedy=f"give a file or a folder with {endings}",
        )
    return found


def caption_files(
    chat: Chat, files: Iterable[Path], root: Path, prompt: str, *, max_new_tokens: int = 2048
) -> Iterator[Captioned]:
    """Yield a caption for each file, in order; each is a conversation of its own, and the most
    likely token is taken unless ``chat.sampling`` says otherwise."""
    for path in files:
        chat.reset()
        name = path.relative_to(root).as_posix() if path != root else path.name
        is_video = media_kind(path) == "video"
        images: Sequence[Path] = () if is_video else (path,)
        video = path if is_video else None
        try:
            said = chat.ask(prompt, images=images, video=video, max_new_tokens=max_new_tokens)
            caption = "".join(said).strip()
        except UserError as error:
            yield Captioned(name, error=str(error))
            continue
        # The conversation now holds the reply; what was asked is all before it
        asked = replace(chat.conversation, turns=chat.conversation.turns[:-1])
        filled = chat.prompt(asked).input_ids == IMAGE_ID
        yield Captioned(name, caption, int(filled.sum()))
    chat.reset()


def with_frames(recipe: Recipe, frames: int) -> Recipe:
    """Return a recipe that takes so many frames of every video, or all where there are fewer."""
    video = recipe.data.video.model_copy(update={"min_frames": frames, "max_frames": frames})
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"video": video})})


def keep_tokens(recipe: Recipe, modules: nn.ModuleDict, keep: float) -> Recipe:
    """Let a model's tower keep another share of its tokens, in place, and return the recipe that
    says so. The weights stay as they are; a model that was trained whole can be tried merged.

    Raises:
        UserError: the model has no tower, its tower cannot merge, or the share cannot be reached.
    """
    vision = recipe.model.vision
    tower = dict(modules.items()).get("vision")
    if not isinstance(tower, VisionTower) or not vision.merges:
        raise UserError(
            "this model's tower cannot merge tokens",
            code="VT-USE-288",
            where=f"tower {vision.kind}",
            remedy="drop the share; towers clip, and siglip at one scale, merge",
        )
    merge = (vision.merge or MergeSpec(keep=keep)).model_copy(update={"keep": keep})
    try:
        spec = type(vision).model_validate({**vision.model_dump(), "merge": merge.model_dump()})
    except ValueError as error:
        raise UserError(
            f"a share of {keep} cannot be kept",
            code="VT-USE-289",
            remedy=f"take another: {str(error).splitlines()[2].strip()}",
        ) from error
    # Blocks that merged before are of the merging class already
    if vision.merge is None:
        let_merge(tower.blocks)
    tower.spec = spec
    model = recipe.model.model_copy(update={"vision": spec})
    return recipe.model_copy(update={"model": model})
