"""LLaVA's three layouts: where tensors of the vision-language half lie in the folders of xtuner, in
the official repository's checkpoints, and in those of transformers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from vita_train.weights.formats.location import TensorLocation, placed

if TYPE_CHECKING:  # layouts of plugins are loaded while the settings are
    from vita_train.recipe.model import ModelSpec

#: Modules that these layouts have a place for.
PARTS = ("llm", "vision", "projector")
#: Folders of xtuner's layout beside the language model.
TOWER_FOLDER, PROJECTOR_FOLDER = "visual_encoder", "projector"

#: What stands before the names of each module, by layout. A tower's own begin with ``model.`` here.
_PREFIXES: dict[str, dict[str, str]] = {
    "llava": {
        "llm": "",
        "vision": "model.vision_tower.vision_tower.vision_model.",
        "projector": "model.mm_projector.",
    },
    "llava-hf": {
        "llm": "language_model.",
        "vision": "vision_tower.vision_model.",
        "projector": "multi_modal_projector.",
    },
    "xtuner": {
        "llm": "",
        "vision": f"{TOWER_FOLDER}/vision_model.",
        "projector": f"{PROJECTOR_FOLDER}/model.",
    },
}
_TOWER = ((r"model\.(.+)", r"\1", ""),)
_SAME = ((r"(.+)", r"\1", ""),)
_LINEARS = ((r"0\.(\w+)", r"linear_1.\1", ""), (r"2\.(\w+)", r"linear_2.\1", ""))
_LANGUAGE = r"(lm_head|model\.(layers|embed_tokens|norm))\."


def tower_prefix(layout: str) -> str:
    """Return what stands before the names of a tower's tensors in a layout."""
    return _PREFIXES[layout]["vision"]


def _located(layout: str, module: str, name: str) -> TensorLocation | None:
    if module not in PARTS:
        return None
    rules = {"vision": _TOWER, "projector": _LINEARS if layout == "llava-hf" else _SAME}
    return placed(_PREFIXES[layout][module], rules.get(module, _SAME), name)


def llava_location(module: str, name: str, spec: ModelSpec) -> TensorLocation | None:
    """Return where a tensor lies in a checkpoint of LLaVA's repository."""
    return _located("llava", module, name)


def llava_hf_location(module: str, name: str, spec: ModelSpec) -> TensorLocation | None:
    """Return where a tensor lies in a checkpoint of transformers' LlavaForConditionalGeneration, by
    the names that its files have had from the first version on."""
    return _located("llava-hf", module, name)


def xtuner_location(module: str, name: str, spec: ModelSpec) -> TensorLocation | None:
    """Return where a tensor lies in xtuner's folders; a folder's name stands before its names."""
    return _located("xtuner", module, name)


def llava_hf_name(name: str) -> str:
    """Return a name of transformers' layout as its first versions had it: newer ones put ``model.``
    before, and leave a level out."""
    name = re.sub(r"^lm_head\.", "language_model.lm_head.", name)
    # Some versions wrote model.language_model.model. as well: its level is not put in twice
    name = re.sub(r"^model\.language_model\.(?!model\.)", "language_model.model.", name)
    name = re.sub(r"^model\.(vision_tower|multi_modal_projector)\.", r"\1.", name)
    return re.sub(r"^vision_tower\.(?!vision_model\.)", "vision_tower.vision_model.", name)


def owner_in(layout: str, name: str) -> str:
    """Return the module whose place a name lies in; empty for none's."""
    for module, prefix in _PREFIXES[layout].items():
        if prefix and name.startswith(prefix):
            return module
    # Without a prefix a language model's names are told by their own beginnings
    return "llm" if not _PREFIXES[layout]["llm"] and re.match(_LANGUAGE, name) else ""
