"""The vision-language half in LLaVA's three layouts: transformers' classes, the repository's
checkpoints, xtuner's folders.

What a whole tower holds behind the block that the features are taken from, and ours does not, is
written as zeros: nothing reads it, and both codes ask for it. None of the three merges tokens; how
this model merged them stands in config.json.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vita_train.errors import CheckpointError
from vita_train.models.build import cast_parameters
from vita_train.recipe.family import FAMILIES
from vita_train.recipe.schema import Recipe
from vita_train.recipe.tower import TowerSpec
from vita_train.recipe.towers.clip import ClipSpec
from vita_train.recipe.towers.siglip import SiglipSpec
from vita_train.weights.export import check_same, copy_tokenizer, load_tokenizer, model_dtype
from vita_train.weights.export_layouts import ExportLayout, register_export_layout
from vita_train.weights.formats.exporting import added_token, probe_both, read_back, summarise
from vita_train.weights.formats.llava_names import (
    PARTS,
    PROJECTOR_FOLDER,
    TOWER_FOLDER,
    llava_hf_location,
    llava_location,
    tower_prefix,
    xtuner_location,
)
from vita_train.weights.formats.vita_export import AGAIN, theirs, write_sharded
from vita_train.weights.pretrained import EXPORT_MANIFEST
from vita_train.weights.save import SHARD_BYTES
from vita_train.weights.staging import atomic_directory, write_json
from vita_train.weights.stream import StoredTensor, tensor_in_memory

#: Tokens that transformers' layout needs.
IMAGE_TOKEN, PAD_TOKEN = "<image>", "<pad>"
#: The vocabulary there is padded to a multiple of it.
_MULTIPLE = 64
#: Variance of new rows of the embedding table and the head, as a share of the old rows'.
_NEW_ROWS = 1e-5
#: Largest difference of logits to those of the model that was exported, as a share of the largest.
_TOLERANCE = 1e-4
_EMBEDDINGS = ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight")


def export_llava_hf(
    modules: nn.ModuleDict,
    recipe: Recipe,
    corpus_dir: Path,
    out: Path,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a directory for transformers' LlavaForConditionalGeneration, run it, and compare the
    logits of a probe with ours, unmerged.

    Two tokens are added to the vocabulary unless it has them, for images and for padding; it is
    padded to a multiple of 64.

    Raises:
        CheckpointError: a part is missing or of a kind that these classes cannot compute, or the
            logits differ.
    """
    spec, half = recipe.model, _half(modules, recipe, "transformers' LLaVA")
    cast_parameters(modules, model_dtype(recipe)).eval()
    with atomic_directory(out, EXPORT_MANIFEST, "export") as folder:
        copy_tokenizer(corpus_dir, folder)
        tokenizer = load_tokenizer(folder)
        ids = [added_token(tokenizer, token) for token in (IMAGE_TOKEN, PAD_TOKEN)]
        tokenizer.pad_token = PAD_TOKEN
        tokenizer.save_pretrained(str(folder))
        rows = -(-max(spec.llm.vocab_size, *(k + 1 for k in ids)) // _MULTIPLE) * _MULTIPLE
        tensors = theirs(half, llava_hf_location, spec) | _unread(spec.vision, "llava-hf", half)
        for name in _EMBEDDINGS:
            if name in tensors:
                tensors[name] = tensor_in_memory(with_rows(tensors[name].load(), rows))
        write_sharded(tensors, folder, shard_bytes)
        write_json(folder / "config.json", _hf_config(half, recipe, rows, ids))
        _write_processors(spec.vision, folder)
        ours, others = llava_logits(half, folder)
        worst = float((ours - others).abs().max() / ours.abs().max())
        # Not `worst > tolerance`: that is false for NaN
        if not worst <= _TOLERANCE:
            raise CheckpointError(
                f"the logits of a probe differ by {worst:.1e} of the largest",
                code="VT-WEIGHTS-092",
                where=str(out),
                remedy="export to own, whose computation is the same",
            )
        summarise(folder, "llava-hf", modules, list(PARTS), recipe)


def export_llava(
    modules: nn.ModuleDict,
    recipe: Recipe,
    corpus_dir: Path,
    out: Path,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a checkpoint of LLaVA's repository, import it again and compare every tensor.

    Raises:
        CheckpointError: a part is missing or of a kind that the repository does not have.
    """
    spec, half = recipe.model, _half(modules, recipe, "LLaVA's repository")
    if FAMILIES[spec.llm.family].model_type != "llama" or not isinstance(spec.vision, ClipSpec):
        raise _unlike("LLaVA's repository", "it computes Llama behind CLIP")
    cast_parameters(modules, model_dtype(recipe)).eval()
    with atomic_directory(out, EXPORT_MANIFEST, "export") as folder:
        copy_tokenizer(corpus_dir, folder)
        whole = _unread(spec.vision, "llava", half)
        tensors = theirs(half, llava_location, spec) | whole
        write_sharded(tensors, folder, shard_bytes)
        tower = spec.vision.source or ""
        if not tower or tower.startswith(("/", "~", ".")):  # nobody else has it: written beside
            tower = "vision_tower"
            inner = {
                f"vision_model.{name.removeprefix(tower_prefix('llava'))}": tensor
                for name, tensor in tensors.items()
                if name.startswith(tower_prefix("llava"))
            }
            _write_tower(inner, recipe, folder / tower, shard_bytes)
        write_json(folder / "config.json", _llava_config(half, recipe, tower))
        _compare(half, recipe, folder, out)
        summarise(folder, "llava", modules, list(PARTS), recipe)


def export_xtuner(
    modules: nn.ModuleDict,
    recipe: Recipe,
    corpus_dir: Path,
    out: Path,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write xtuner's folders, import them again and compare every tensor. Adapters are merged, and
    parts that no stage trained are written too.

    Raises:
        CheckpointError: a part is missing or of a kind that xtuner's LLaVA does not have.
    """
    spec, half = recipe.model, _half(modules, recipe, "xtuner's LLaVA")
    cast_parameters(modules, model_dtype(recipe)).eval()
    with atomic_directory(out, EXPORT_MANIFEST, "export") as folder:
        copy_tokenizer(corpus_dir, folder)
        tensors = theirs(half, xtuner_location, spec) | _unread(spec.vision, "xtuner", half)
        parts: dict[str, dict[str, StoredTensor]] = {}
        for name, tensor in tensors.items():
            # Names of this layout begin with their folder; those of the language model have none
            part, _, inner = name.rpartition("/")
            parts.setdefault(part, {})[inner] = tensor
        write_sharded(parts[""], folder, shard_bytes)
        write_json(folder / "config.json", _text_config(half, recipe) | _merging(spec.vision))
        _write_tower(parts[TOWER_FOLDER], recipe, folder / TOWER_FOLDER, shard_bytes)
        (folder / PROJECTOR_FOLDER).mkdir()
        write_sharded(parts[PROJECTOR_FOLDER], folder / PROJECTOR_FOLDER, shard_bytes)
        config = {
            "model_type": "projector",
            "visual_hidden_size": spec.vision.feature_size,
            "llm_hidden_size": spec.llm.hidden_size,
            "depth": 2,
            "hidden_act": "gelu",
            "bias": True,
            "dtype": spec.dtype,
        }
        write_json(folder / PROJECTOR_FOLDER / "config.json", config)
        _compare(half, recipe, folder, out)
        summarise(folder, "xtuner", modules, list(PARTS), recipe)


def with_rows(weight: Tensor, rows: int) -> Tensor:
    """Return a table (V, D) with rows added up to a number: (rows, D).

    New rows are drawn around the mean of the old ones, with a covariance of 1e-5 times theirs, from
    a generator of their own: the same table gives the same rows.
    """
    old = weight.float()
    generator = torch.Generator().manual_seed(0)
    # Combinations of old rows by normal weights have the old rows' covariance, which is never built
    drawn = torch.randn(rows - len(old), len(old), generator=generator)
    mean = old.mean(0)
    new = mean + (_NEW_ROWS / max(1, len(old) - 1)) ** 0.5 * (drawn @ (old - mean))
    return torch.cat((weight, new.to(weight.dtype)))


def llava_logits(modules: nn.ModuleDict, directory: Path) -> tuple[Tensor, Tensor]:
    """Return what modules and transformers' LLaVA classes say to a probe: see `probe_both`."""
    from transformers import LlavaForConditionalGeneration

    llm: Any = modules["llm"]
    model = LlavaForConditionalGeneration.from_pretrained(
        str(directory), dtype=llm.dtype, local_files_only=True
    )
    return probe_both(modules, model.eval())


def _half(modules: nn.ModuleDict, recipe: Recipe, what: str) -> nn.ModuleDict:
    """Return the modules that LLaVA has.

    Raises:
        CheckpointError: one is missing, or of a kind that LLaVA does not compute.
    """
    vision = recipe.model.vision
    if missing := [name for name in PARTS if name not in modules]:
        raise _unlike(what, f"there is no {missing[0]}")
    scales = vision.scales if isinstance(vision, SiglipSpec) else ()
    if not isinstance(vision, ClipSpec | SiglipSpec) or scales:
        raise _unlike(what, "it computes CLIP, or SigLIP at one scale")
    if recipe.model.projector.kind != "mlp2x_gelu":
        raise _unlike(what, "its projector is mlp2x_gelu")
    return nn.ModuleDict({name: modules[name] for name in PARTS})


def _unlike(what: str, why: str) -> CheckpointError:
    return CheckpointError(
        f"{what} cannot compute this model: {why}",
        code="VT-WEIGHTS-093",
        remedy="export to own, which takes every model",
    )


def _whole_tower(spec: TowerSpec) -> Any:
    """Return transformers' network of a whole tower, without memory."""
    from transformers import AutoModel

    with torch.device("meta"):
        return AutoModel.from_config(_vision_config(spec))


def _unread(spec: TowerSpec, layout: str, modules: nn.ModuleDict) -> dict[str, StoredTensor]:
    """Return what of a whole tower ours does without, as zeros."""
    there = {name.removeprefix("model.") for name in modules["vision"].state_dict()}
    dtype = next(modules["vision"].parameters()).dtype
    return {
        f"{tower_prefix(layout)}{name}": tensor_in_memory(torch.zeros(tensor.shape, dtype=dtype))
        for name, tensor in _whole_tower(spec).state_dict().items()
        if name not in there
    }


def _vision_config(spec: TowerSpec) -> Any:
    from transformers import CLIPVisionConfig, SiglipVisionConfig

    sizes: dict[str, Any] = {
        "hidden_size": spec.hidden_size,
        "num_hidden_layers": spec.num_layers,
        "num_attention_heads": spec.num_heads,
        "intermediate_size": spec.intermediate_size,
        "image_size": spec.image_size,
        "patch_size": spec.patch_size,
        "hidden_act": spec.released_activation,
        "layer_norm_eps": spec.norm_eps,
    }
    if isinstance(spec, SiglipSpec):
        return SiglipVisionConfig(**sizes, vision_use_head=False)
    return CLIPVisionConfig(**sizes)


def _text_config(modules: nn.ModuleDict, recipe: Recipe) -> dict[str, Any]:
    llm: Any = modules["llm"]
    text: dict[str, Any] = llm.config.to_dict()
    return text | {"architectures": [type(llm).__name__], "dtype": recipe.model.dtype}


def _merging(spec: TowerSpec) -> dict[str, Any]:
    """Return how visual tokens were merged, under AuroraCap's name and in full."""
    if spec.merge is None:
        return {}
    return {
        "visual_token_merge_ratio": spec.merge.keep,
        "visual_token_merge": spec.merge.model_dump(mode="json"),
    }


def _hf_config(
    modules: nn.ModuleDict, recipe: Recipe, rows: int, ids: Iterable[int]
) -> dict[str, Any]:
    vision: Any = recipe.model.vision
    image_id, pad_id = ids
    text = _text_config(modules, recipe) | {"vocab_size": rows, "pad_token_id": pad_id}
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "dtype": recipe.model.dtype,
        "text_config": text,
        "vision_config": _vision_config(vision).to_dict(),
        "image_token_index": image_id,
        "image_token_id": image_id,
        "pad_token_id": pad_id,
        "image_seq_length": vision.num_tokens,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": vision.feature_layer,
        "vision_feature_select_strategy": "default" if vision.class_tokens else "full",
        "tie_word_embeddings": text["tie_word_embeddings"],
        **_merging(vision),
    }


def _llava_config(modules: nn.ModuleDict, recipe: Recipe, tower: str) -> dict[str, Any]:
    vision: Any = recipe.model.vision
    return {
        **_text_config(modules, recipe),
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava",
        "image_aspect_ratio": "pad",
        "mm_hidden_size": vision.feature_size,
        "mm_projector_type": "mlp2x_gelu",
        # The repository would otherwise add tokens to the vocabulary when it loads this
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": vision.feature_layer,
        "mm_vision_tower": tower,
        # Makes the repository read the tower from this checkpoint and not from its release
        "unfreeze_mm_vision_tower": True,
        "use_mm_proj": True,
        **_merging(vision),
    }


def _write_tower(
    tensors: dict[str, StoredTensor], recipe: Recipe, folder: Path, shard_bytes: int
) -> None:
    """Write a whole tower as transformers saves it."""
    folder.mkdir()
    write_sharded(tensors, folder, shard_bytes)
    config = _vision_config(recipe.model.vision).to_dict()
    config |= {"architectures": None, "dtype": recipe.model.dtype}
    write_json(folder / "config.json", config)
    _write_processors(recipe.model.vision, folder)


def _write_processors(spec: TowerSpec, folder: Path) -> None:
    """Write how an image becomes the tower's pixels."""
    side = {"height": spec.image_size, "width": spec.image_size}
    siglip = isinstance(spec, SiglipSpec)
    pixels = {
        "image_processor_type": "SiglipImageProcessor" if siglip else "CLIPImageProcessor",
        "do_resize": True,
        "size": side if siglip else {"shortest_edge": spec.image_size},
        "do_center_crop": not siglip,
        "crop_size": side,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(spec.mean),
        "image_std": list(spec.std),
        "do_convert_rgb": True,
        # PIL's bicubic
        "resample": 3,
    }
    write_json(folder / "preprocessor_config.json", pixels)
    words = {
        "processor_class": "LlavaProcessor",
        "patch_size": spec.patch_size,
        "num_additional_image_tokens": spec.class_tokens,
        "vision_feature_select_strategy": "default" if spec.class_tokens else "full",
        "image_token": IMAGE_TOKEN,
    }
    write_json(folder / "processor_config.json", words)


def _compare(half: nn.ModuleDict, recipe: Recipe, folder: Path, out: Path) -> None:
    """Refuse a directory that is not imported as what was written."""
    check_same(half, read_back(recipe, folder, PARTS, folder / AGAIN), out)
    shutil.rmtree(folder / AGAIN)


for _layout in (
    ExportLayout(
        "llava-hf",
        "images and text, for transformers' LLaVA classes",
        "vita_train.weights.formats.llava_export:export_llava_hf",
        takes_shard_size=True,
    ),
    ExportLayout(
        "llava",
        "images and text, for LLaVA's repository",
        "vita_train.weights.formats.llava_export:export_llava",
        takes_shard_size=True,
    ),
    ExportLayout(
        "xtuner",
        "images and text, in the folders of xtuner (AuroraCap)",
        "vita_train.weights.formats.llava_export:export_xtuner",
        takes_shard_size=True,
    ),
):
    register_export_layout(_layout)
