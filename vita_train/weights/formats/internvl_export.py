"""The vision-language half as transformers' InternVL classes compute it.

InternVL's projector begins with a LayerNorm that VITA's does not have, and with a factor of 1 where
VITA's features are halved. Both are undone by weights alone, so that the classes need no change:

- the tower is widened by a few channels. Its residual stream holds the features without their mean
over channels, and
  the mean, made small, in two of the new channels with opposite signs. The mean over channels is
  then always zero, and a LayerNorm takes nothing away. LayerNorms in the tower see the same vectors
  as before, up to a factor that their weights take back;
- the stream is scaled down until its variance is nothing beside the epsilon of the projector's
LayerNorm, which
  then divides by a constant.

Folding is computed in float64 and stored as float32, whatever type the language model has.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vita_train.errors import CheckpointError
from vita_train.models.build import cast_parameters
from vita_train.models.vision.internvit import InternVitTower
from vita_train.recipe.schema import Recipe
from vita_train.recipe.towers.internvit import InternVitSpec
from vita_train.weights.export import copy_tokenizer, load_tokenizer, model_dtype
from vita_train.weights.export_layouts import ExportLayout, register_export_layout
from vita_train.weights.formats.exporting import added_token, probe_both, summarise
from vita_train.weights.formats.vita_export import write_sharded
from vita_train.weights.load import first_names
from vita_train.weights.pretrained import EXPORT_MANIFEST
from vita_train.weights.staging import atomic_directory, write_json
from vita_train.weights.stream import StoredTensor, tensor_in_memory

#: Modules of this layout.
PARTS = ("llm", "vision", "projector")
#: The token that stands at every position an image fills.
IMAGE_TOKEN = "<|image_pad|>"

#: Largest difference of logits to those of the model that was exported, as a share of the largest
#: logit: the layout
#: computes the same in another order.
_TOLERANCE = 1e-4
#: New channels per attention head: keeps heads at a width that fast kernels take.
_CHANNELS_PER_HEAD = 8
#: Factor on the whole stream; a power of two, so that nothing is rounded.
_STREAM = 2.0**-30
#: Factor on the mean in the new channels.
_MEAN = 2.0**-13
#: Epsilon of the tower's LayerNorms, and of the projector's in transformers.
_TOWER_EPSILON, _PROJECTOR_EPSILON = 1e-6, 1e-5


def write_internvl(modules: nn.ModuleDict, recipe: Recipe, tokenizer: Any, out: Path) -> list[str]:
    """Write weights, config.json and the tokenizer, with a token for images; return the modules
    used.

    Args:
        modules: of the run; more than PARTS are left out.
        recipe: of the run.
        tokenizer: transformers' tokenizer; a token for images is added to it unless it has one.
        out: existing directory.

    Raises:
        CheckpointError: a part is missing, or is of a kind that InternVL's classes cannot compute.
    """
    vision = recipe.model.vision
    missing = [name for name in PARTS if name not in modules]
    if (
        missing
        or not isinstance(vision, InternVitSpec)
        or recipe.model.projector.kind != "mlp2x_gelu"
    ):
        raise CheckpointError(
            f"there is no {missing[0]}" if missing else "tower or projector is of another kind",
            code="VT-WEIGHTS-039",
            where="InternVL layout",
            remedy="export to own, which takes every model",
        )
    image_id = added_token(tokenizer, IMAGE_TOKEN)
    tokenizer.save_pretrained(str(out))
    llm: Any = modules["llm"]
    tower: Any = modules["vision"]
    tensors = {
        **_language(llm, image_id),
        **_stored("model.vision_tower.", fold_tower(tower)),
        **_stored("model.multi_modal_projector.", fold_projector(modules["projector"], vision)),
    }
    write_sharded(tensors, out)
    text = llm.config.to_dict()
    text |= {
        # The image's token may be one more than the vocabulary has
        "vocab_size": max(text["vocab_size"], image_id + 1),
        "architectures": None,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = {
        "architectures": ["InternVLForConditionalGeneration"],
        "model_type": "internvl",
        "dtype": recipe.model.dtype,
        "text_config": text,
        "vision_config": _vision_config(vision),
        "image_token_id": image_id,
        "image_seq_length": recipe.model.tokens_per_tile,
        "downsample_ratio": 1 / vision.shuffle,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
        "tie_word_embeddings": text["tie_word_embeddings"],
    }
    write_json(out / "config.json", config)
    return list(PARTS)


def widened(spec: InternVitSpec) -> int:
    """Return the width of the folded tower."""
    return spec.hidden_size + _CHANNELS_PER_HEAD * spec.num_heads


def fold_tower(tower: InternVitTower) -> dict[str, Tensor]:
    """Return float32 weights of an InternVLVisionModel of width C' that writes the stream described
    above.

    For features h of width C with mean m it holds s (h - m) in the first C channels, s a m and -s a
    m in the next two.
    """
    return {name: tensor.float() for name, tensor in _folded(tower)}


@torch.no_grad()
def fold_projector(projector: nn.Module, spec: InternVitSpec) -> dict[str, Tensor]:
    """Return float32 weights of InternVL's projector that read the folded tower's stream."""
    old = {name: tensor.double().cpu() for name, tensor in projector.state_dict().items()}
    narrow, wide, squares = spec.hidden_size, widened(spec), spec.shuffle**2
    # (out, squares * C) -> (out, squares, C): the projector reads `shuffle` x `shuffle` patches
    weight = old["0.weight"].unflatten(1, (squares, narrow)) * spec.feature_scale
    folded = torch.zeros(len(weight), squares, wide, dtype=torch.float64)
    folded[:, :, :narrow] = weight
    # Read as a difference: what rounding leaves of the mean over channels is the same in both and
    # falls out.
    folded[:, :, narrow] = weight.sum(2) / (2 * _MEAN)
    folded[:, :, narrow + 1] = -folded[:, :, narrow]
    # Beside the stream's variance the epsilon is all: LayerNorm divides by its root
    scale = math.sqrt(_PROJECTOR_EPSILON) / _STREAM
    new = {
        "layer_norm.weight": torch.full((squares * wide,), scale, dtype=torch.float64),
        "layer_norm.bias": torch.zeros(squares * wide, dtype=torch.float64),
        "linear_1.weight": folded.flatten(1),
        "linear_1.bias": old["0.bias"],
        "linear_2.weight": old["2.weight"],
        "linear_2.bias": old["2.bias"],
    }
    return {name: tensor.float() for name, tensor in new.items()}


def _folded(tower: InternVitTower) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of `fold_tower` in float64, one at a time: all together would take
    gigabytes."""
    spec, wide = tower.spec, widened(tower.spec)
    narrow, heads = spec.hidden_size, spec.num_heads
    stored = tower.model.state_dict()

    def old(name: str) -> Tensor:
        return stored[name].double().cpu()

    into = torch.zeros(wide, narrow, dtype=torch.float64)
    # Takes the mean out, and puts it into two channels that add up to zero
    into[:narrow] = torch.eye(narrow, dtype=torch.float64) - 1 / narrow
    into[narrow], into[narrow + 1] = _MEAN / narrow, -_MEAN / narrow
    into *= _STREAM
    head, wide_head = narrow // heads, wide // heads
    # Where each channel of a head lies among the wider heads.
    rows = (torch.arange(heads)[:, None] * wide_head + torch.arange(head)).flatten()
    # Scores are divided by the root of the head's width, and a LayerNorm's output grows with the
    # vector's.
    more, less = math.sqrt(wide_head / head), math.sqrt(narrow / wide)
    for name in ("embeddings.cls_token", "embeddings.position_embeddings"):
        yield name, old(name) @ into.T
    patch = "embeddings.patch_embeddings.projection."
    # (wide, C) times (C, 3, P, P): the stream's map after the patches' own
    yield f"{patch}weight", torch.einsum("oc,cijk->oijk", into, old(f"{patch}weight"))
    yield f"{patch}bias", into @ old(f"{patch}bias")
    for layer in (f"encoder.layer.{index}." for index in range(spec.num_layers)):
        for norm in ("layernorm_before", "layernorm_after"):
            yield f"{layer}{norm}.weight", _padded(old(f"{layer}{norm}.weight") * less, wide)
            yield f"{layer}{norm}.bias", _padded(old(f"{layer}{norm}.bias"), wide)
        for letter in "qkv":
            name, factor = f"{layer}attention.{letter}_proj.", more if letter == "q" else 1.0
            weight, bias = (
                torch.zeros(wide, wide, dtype=torch.float64),
                torch.zeros(wide, dtype=torch.float64),
            )
            weight[rows, :narrow] = old(f"{name}weight") * factor
            bias[rows] = old(f"{name}bias") * factor
            yield f"{name}weight", weight
            yield f"{name}bias", bias
        # Layer scales are multiplied in: the widened stream has no place for a factor by old
        # channel
        name, out = f"{layer}attention.projection_layer.", into * old(f"{layer}lambda_1")
        weight = torch.zeros(wide, wide, dtype=torch.float64)
        weight[:, rows] = out @ old(f"{name}weight")
        yield f"{name}weight", weight
        yield f"{name}bias", out @ old(f"{name}bias")
        yield f"{layer}mlp.fc1.weight", _padded(old(f"{layer}mlp.fc1.weight"), wide)
        yield f"{layer}mlp.fc1.bias", old(f"{layer}mlp.fc1.bias")
        out = into * old(f"{layer}lambda_2")
        yield f"{layer}mlp.fc2.weight", out @ old(f"{layer}mlp.fc2.weight")
        yield f"{layer}mlp.fc2.bias", out @ old(f"{layer}mlp.fc2.bias")
        for scale in ("lambda_1", "lambda_2"):
            yield f"{layer}{scale}", torch.ones(wide, dtype=torch.float64)


def _vision_config(spec: InternVitSpec) -> dict[str, Any]:
    wide = widened(spec)
    return {
        "model_type": "internvl_vision",
        "architectures": ["InternVLVisionModel"],
        "hidden_size": wide,
        "num_hidden_layers": spec.num_layers,
        "num_attention_heads": spec.num_heads,
        "intermediate_size": spec.intermediate_size,
        "image_size": [spec.image_size, spec.image_size],
        "patch_size": [spec.patch_size, spec.patch_size],
        "attention_bias": True,
        "use_qk_norm": False,
        "norm_type": "layer_norm",
        # Scaled as the stream's variance is, which is now also over more channels
        "layer_norm_eps": _TOWER_EPSILON * _STREAM**2 * spec.hidden_size / wide,
        "layer_scale_init_value": 1.0,
        "use_mean_pooling": True,
    }


def _language(llm: Any, image_id: int) -> dict[str, StoredTensor]:
    """Return the language model's tensors, with a row for the image token where its id lies beyond
    the last."""
    first = first_names(llm)
    tensors = {}
    for name, tensor in llm.state_dict().items():
        if first.get(name, name) != name:
            continue
        if name.endswith(("embed_tokens.weight", "lm_head.weight")) and image_id >= len(tensor):
            # Zeros: the image's features are written over the row, and its logit is nobody's answer
            tensor = torch.cat(
                (tensor, tensor.new_zeros(image_id + 1 - len(tensor), tensor.shape[1]))
            )
        inner = name.removeprefix("model.")
        tensors[f"model.language_model.{inner}" if inner != name else name] = tensor_in_memory(
            tensor
        )
    return tensors


def _stored(prefix: str, tensors: dict[str, Tensor]) -> dict[str, StoredTensor]:
    return {prefix + name: tensor_in_memory(tensor) for name, tensor in tensors.items()}


def _padded(tensor: Tensor, width: int) -> Tensor:
    """Return a tensor with zeros behind its last axis, up to a width."""
    return nn.functional.pad(tensor, (0, width - tensor.shape[-1]))


def export_internvl(modules: nn.ModuleDict, recipe: Recipe, corpus_dir: Path, out: Path) -> None:
    """Write the vision-language half for transformers' InternVL classes, run both in float32 and
    compare logits."""
    dtype = model_dtype(recipe)
    cast_parameters(modules, dtype).eval()
    with atomic_directory(out, EXPORT_MANIFEST, "export") as staging_dir:
        copy_tokenizer(corpus_dir, staging_dir)
        written = write_internvl(modules, recipe, load_tokenizer(staging_dir), staging_dir)
        half = nn.ModuleDict({name: modules[name] for name in PARTS})
        sight = nn.ModuleDict({name: half[name] for name in PARTS if name != "llm"})
        # Weights that were folded in float64 are compared with ours in float32, not in what they
        # are stored as
        cast_parameters(sight, torch.float32)
        ours, others = internvl_logits(half, staging_dir)
        cast_parameters(sight, dtype)
        worst = float((ours - others).abs().max() / ours.abs().max())
        # Not `worst > tolerance`: that is false for NaN
        if not worst <= _TOLERANCE:
            raise CheckpointError(
                f"the logits of a probe differ by {worst:.1e} of the largest",
                code="VT-WEIGHTS-040",
                where=str(out),
                remedy="export to own or vita, whose computation is the same",
            )
        summarise(staging_dir, "internvl", modules, written, recipe)


def internvl_logits(modules: nn.ModuleDict, directory: Path) -> tuple[Tensor, Tensor]:
    """Return what modules and transformers' InternVL classes say to a probe, in float32: (1,
    positions, V) each.

    Tower and projector must be in float32; the language model may stay as it is stored.
    """
    from transformers import InternVLForConditionalGeneration

    class AsStored(InternVLForConditionalGeneration):
        """Keeps what is stored in float32 when the language model is loaded in less."""

        _keep_in_fp32_modules_strict = ["vision_tower", "multi_modal_projector"]

    llm: Any = modules["llm"]
    model = AsStored.from_pretrained(str(directory), dtype=llm.dtype, local_files_only=True).eval()
    return probe_both(modules, model)


register_export_layout(
    ExportLayout(
        "internvl",
        "images and text, for transformers' InternVL classes",
        "vita_train.weights.formats.internvl_export:export_internvl",
    )
)
