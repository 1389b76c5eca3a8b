"""The model that a command line describes, and how its language model is adapted or quantised."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

from vita_train.compat.vita.conflicts import model_type, tower_kind
from vita_train.compat.vita.parse import Arguments
from vita_train.recipe.family import FAMILIES
from vita_train.recipe.model import LlmSpec
from vita_train.recipe.towers.siglip import SiglipSpec

#: Folder below which relative paths of weights on the public command line are looked for first.
WEIGHTS_ROOT = "VITA_TRAIN_WEIGHTS"
#: The public code's scales of S2, as multiples of the tower's own side.
_SCALES = (1, 2, 3)


def family_of(arguments: Arguments) -> str:
    """Return the family of language models.

    Freeze-Omni's differs from Qwen2.5 by its state head alone, which the public code makes only
    where it is tuned.
    """
    named = model_type(arguments)
    if named == "qwen2p5_fo_instruct" and not arguments["audio_state_predictor_tuning"]:
        arguments.note(
            "--model_type qwen2p5_fo_instruct without --audio_state_predictor_tuning is "
            "qwen2p5_instruct, "
            "in the public code as well"
        )
        return "qwen2p5_instruct"
    return named


def rooted(source: str) -> str:
    """Return where weights are: a relative path that is there below `WEIGHTS_ROOT` is meant from
    it; anything else stays as it stands."""
    root = os.environ.get(WEIGHTS_ROOT, "")
    if not root or "://" in source or os.path.isabs(source) or source.startswith("~"):
        return source
    place = os.path.join(root, source)
    return place if os.path.exists(place) else source


def state_mode_of(arguments: Arguments) -> str:
    """Return how a reply tells what it answers."""
    if arguments["audio_state_predictor_tuning"] and "state_mode" not in arguments.given:
        return "head"
    return str(arguments["state_mode"])


def template_of(arguments: Arguments) -> str:
    """Return the conversation template: the one that is named, or the model type's own."""
    named = str(arguments["version"] or FAMILIES[family_of(arguments)].template)
    return "mixtral_two" if named == "default" else named  # as the public code has it


def positions_of(arguments: Arguments) -> int:
    """Return the positions that the published language model was trained for."""
    shape = FAMILIES[family_of(arguments)].shape
    return int(shape.get("max_positions", LlmSpec().max_positions))


def model_of(arguments: Arguments, dtype: str, like_public: bool) -> dict[str, Any]:
    """Return the ``model`` section of the recipe."""
    llm: dict[str, Any] = {
        "source": rooted(arguments["model_name_or_path"]),
        "family": family_of(arguments),
    }
    if arguments["model_max_length"] > positions_of(arguments) and like_public:
        llm["max_positions"] = arguments["model_max_length"]
        arguments.note(
            f"{arguments.shown('model_max_length')} is more than the model was trained for "
            f"({positions_of(arguments)} positions); taken as the public code does"
        )
    kind = tower_kind(arguments)
    vision: dict[str, Any] = {"kind": "eva_clip" if kind == "eva" else kind}
    if arguments["vision_tower"] is not None:
        vision["source"] = rooted(arguments["vision_tower"])
    if arguments["use_s2"]:
        vision["scales"] = [SiglipSpec().image_size * scale for scale in _SCALES]
    projector = re.sub(r"^spp.*(v[123])$", r"spp_\1", str(arguments["mm_projector_type"]))
    adapter = (
        {"prompt_tokens": arguments["audio_prompt_num"]}
        if arguments["audio_prompt_finetune"]
        else {}
    )
    return {
        "dtype": dtype,
        "llm": llm,
        "vision": vision,
        "projector": {"kind": projector},
        **({"audio_adapter": adapter} if adapter else {}),
    }


def adapted(arguments: Arguments, parts: Sequence[str]) -> dict[str, Any]:
    """Return a stage's ``lora`` and ``quantize``, where the command line asks for them.

    In the public code LoRA also takes in the speech encoder; it was meant for the language model
    alone.
    """
    found: dict[str, Any] = {}
    if arguments["lora_enable"] and "llm" in parts:
        found["lora"] = {
            "rank": arguments["lora_r"],
            "alpha": arguments["lora_alpha"],
            "dropout": arguments["lora_dropout"],
            "bias": arguments["lora_bias"],
        }
    if arguments["bits"] != 16:
        found["quantize"] = {
            "kind": arguments["quant_type"] if arguments["bits"] == 4 else "int8",
            "double": arguments["double_quant"],
        }
    return found
