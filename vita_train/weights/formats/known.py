"""The layouts that can be imported, and which of them a source has.

A plugin adds one with `register_import_layout`. Nothing here imports torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from vita_train.plugins import Registry
from vita_train.recipe.modules import MODULES
from vita_train.weights.formats.llava_names import (
    PARTS,
    TOWER_FOLDER,
    llava_hf_location,
    llava_hf_name,
    llava_location,
    owner_in,
    tower_prefix,
    xtuner_location,
)
from vita_train.weights.formats.speech_names import (
    SPEECH_MODULES,
    UNUSED,
    canonical_speech_name,
)
from vita_train.weights.formats.tensor_locations import (
    VITA_MODULES,
    LocateTensor,
    flat_location,
    internvit_location,
    internvl_vision_location,
    llm_location,
    vita_location,
    vita_owner,
)

#: The terms of the released weights.
VITA_TERMS = "VITA-1.5 (academic, research and education use only)"


@dataclass(frozen=True)
class Layout:
    """Someone's way of naming tensors."""

    name: str
    """As ``vita-train model import --layout`` has it."""
    title: str
    modules: tuple[str, ...]
    """Modules that may be in it."""
    place: LocateTensor
    canonical: Callable[[str], str | None] = lambda name: name
    """A stored name as ``place`` gives it, whatever the source spelt; None for what is no part of
    the modules."""
    terms: str = ""
    """Terms of its owners that a user has to accept."""
    owner: Callable[[str], str] = lambda name: ""
    """The module whose place a name from ``canonical`` lies in; empty for none's. A layout of one
    module needs none."""
    mark: str = ""
    """A pattern that the beginning of some tensor's name matches in this layout and in none that
    was declared before; empty where a user has to name the layout."""
    tower: str = ""
    """What stands before the tensors of a whole vision tower: ours does without its last blocks."""
    described: str = ""
    """Folder, below the source, with the config.json that describes the tower; empty if none."""

    def module_of(self, name: str) -> str:
        """Return the module that a name from ``canonical`` belongs to; empty if to none."""
        return self.modules[0] if len(self.modules) == 1 else self.owner(name)


IMPORT_LAYOUTS: Registry[Layout] = Registry("import layout")


def register_import_layout(layout: Layout) -> None:
    """Add a layout.

    Raises:
        VitaError: its name is taken.
    """
    IMPORT_LAYOUTS.add(layout.name, layout)


def _vita_name(name: str) -> str:
    return canonical_speech_name(
        re.sub(
            # The release spells it adpter, which is the name that counts here
            r"^model\.audio_encoder\.(?:adapter|audio_adapter)\.",
            "model.audio_encoder.adpter.",
            name,
        )
    )


def _projector_name(name: str) -> str | None:
    # Files of this kind are saved from wrapped models too, whatever stands in front
    _, found, rest = name.rpartition("mm_projector.")
    return f"model.mm_projector.{rest}" if found else None


def _adapter_name(name: str) -> str | None:
    found = re.search(r"(?:^|\.)(?:adpter|adapter|audio_adapter)\.(.+)$", name)
    return f"model.audio_encoder.adpter.{found[1]}" if found else None


def _speech_name(name: str) -> str:
    return _vita_name(f"model.audio_encoder.{name}")


def _tower_name(name: str) -> str | None:
    """Take off a prefix that ends in ``vision_tower.`` or ``vision_model.``; without one the name
    must be a tower's."""
    for marker in ("vision_tower.", "vision_model."):
        if marker in name:
            return name.rpartition(marker)[2]
    return name if re.match(r"(embeddings|encoder|layernorm|head)\.", name) else None


# In the order in which marks are looked for.
for _layout in (
    Layout(
        "llava",
        "checkpoint of LLaVA's repository",
        PARTS,
        llava_location,
        owner=partial(owner_in, "llava"),
        mark=re.escape(tower_prefix("llava")),
        tower=tower_prefix("llava"),
    ),
    Layout(
        "llava-hf",
        "LLaVA of transformers",
        PARTS,
        llava_hf_location,
        llava_hf_name,
        owner=partial(owner_in, "llava-hf"),
        mark=r"(model\.)?multi_modal_projector\.linear_1\.",
        tower=tower_prefix("llava-hf"),
        described=".",
    ),
    Layout(
        "xtuner",
        "folders of xtuner",
        PARTS,
        xtuner_location,
        owner=partial(owner_in, "xtuner"),
        mark=r"(visual_encoder|projector)/",
        tower=tower_prefix("xtuner"),
        described=TOWER_FOLDER,
    ),
    Layout(
        "vita",
        "released VITA-1.5 checkpoint",
        (*VITA_MODULES, *SPEECH_MODULES),
        vita_location,
        _vita_name,
        VITA_TERMS,
        vita_owner,
        mark=r"model\.(vision_tower|mm_projector|audio_encoder)\.",
    ),
    Layout(
        "mm-projector",
        "VITA's mm_projector.bin",
        ("projector",),
        vita_location,
        _projector_name,
        VITA_TERMS,
    ),
    Layout(
        "audio-adapter",
        "VITA's audio_adpter.bin",
        ("audio_adapter",),
        vita_location,
        _adapter_name,
        VITA_TERMS,
    ),
    Layout(
        "vita-stage",
        "files of a stage of VITA's trainer",
        ("projector", "audio_adapter"),
        vita_location,
        lambda name: _projector_name(name) or _adapter_name(name),
        VITA_TERMS,
        vita_owner,
    ),
    Layout(
        "audio-encoder",
        "VITA's speech encoder directory",
        ("audio_encoder", "audio_adapter"),
        vita_location,
        _speech_name,
        VITA_TERMS,
        vita_owner,
    ),
    Layout(
        "vita-tts",
        "VITA's vita_tts_ckpt",
        SPEECH_MODULES,
        vita_location,
        canonical_speech_name,
        VITA_TERMS,
        vita_owner,
    ),
    Layout(
        "hf",
        "export of vita-train for transformers",
        MODULES,
        flat_location,
        owner=lambda name: name.partition(".")[0],
        mark=rf"({'|'.join(MODULES)})\.",
    ),
    Layout(
        "internvit",
        "InternViT, original names",
        ("vision",),
        internvit_location,
        _tower_name,
        described=".",
        mark=r"(.*\.)?encoder\.layers\.\d+\.attn\.qkv\.",
    ),
    Layout(
        "internvl-vision",
        "InternViT, transformers' names",
        ("vision",),
        internvl_vision_location,
        _tower_name,
        described=".",
        mark=r"(.*\.)?encoder\.layer\.\d+\.attention\.q_proj\.",
    ),
    Layout(
        "llm",
        "language model of transformers",
        ("llm",),
        llm_location,
        mark=r"model\.embed_tokens\.",
    ),
):
    register_import_layout(_layout)

#: Tensors with a known reason to be left where they are.
_LEFT_OUT: tuple[tuple[str, str], ...] = (
    (
        r"(.*\.)?prompt_embeddings\.weight",
        "the recipe has no audio prompt (model.audio_adapter.prompt_tokens)",
    ),
    (r"(.*\.)?predictor_head\.(weight|bias)", "the recipe has no state head (data.state_mode)"),
    (r"(.*[./])?rotary_emb(_\w+)?\.inv_freq", "computed, not stored"),
)
#: Tensors that the public networks hold and no computation of theirs reads. They are kept beside
#: an import, so that they can be written back.
_KEPT = rf"{UNUSED}|model\.mm_projector\.linear_0\.(weight|bias)"


def is_kept_aside(name: str) -> bool:
    """Say whether a tensor that fits no module is one that nothing reads, and is kept."""
    return re.fullmatch(_KEPT, name) is not None


def reason_to_leave(name: str) -> str:
    """Return why a tensor that fits no module is left out; empty if nothing explains it."""
    if is_kept_aside(name):
        return "nothing in the public code reads it; kept aside, to be written back"
    return next((reason for pattern, reason in _LEFT_OUT if re.fullmatch(pattern, name)), "")


def layout_of(names: Iterable[str]) -> str:
    """Return the name of the layout that tensor names speak of; empty if none is known."""
    given = list(names)
    # In the order of declaration: a mark need only tell a layout from those after it
    marked = ((name, mark) for name in IMPORT_LAYOUTS if (mark := IMPORT_LAYOUTS[name].mark))
    return next((name for name, mark in marked if any(re.match(mark, key) for key in given)), "")
