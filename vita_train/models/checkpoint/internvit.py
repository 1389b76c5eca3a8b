"""Weights of a pretrained InternViT, in transformers' tensor names or in those of the original release."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from vita_train.errors import CheckpointError
from vita_train.models.checkpoint.header import read_header

#: Original names to those of transformers' InternVLVisionModel.
_RENAMED = (
    (r"^embeddings\.class_embedding$", "embeddings.cls_token"),
    (r"^embeddings\.position_embedding$", "embeddings.position_embeddings"),
    (r"^embeddings\.patch_embedding\.", "embeddings.patch_embeddings.projection."),
    (r"^encoder\.layers\.(\d+)\.attn\.proj\.", r"encoder.layer.\1.attention.projection_layer."),
    (r"^encoder\.layers\.(\d+)\.attn\.qkv\.", r"encoder.layer.\1.attention.qkv."),
    (r"^encoder\.layers\.(\d+)\.norm1\.", r"encoder.layer.\1.layernorm_before."),
    (r"^encoder\.layers\.(\d+)\.norm2\.", r"encoder.layer.\1.layernorm_after."),
    (r"^encoder\.layers\.(\d+)\.mlp\.", r"encoder.layer.\1.mlp."),
    (r"^encoder\.layers\.(\d+)\.ls([12])$", r"encoder.layer.\1.lambda_\2"),
)


def read_internvit(source: str, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tower's tensors from a directory of safetensors files, or a hub name.

    Names may carry a prefix that ends in ``vision_tower.`` or ``vision_model.``; tensors outside it are left alone.

    Raises:
        CheckpointError: no file is found, or the tensors are not those of ``wanted``.
    """
    found: dict[str, Tensor] = {}
    for path in _files(source):
        names = read_header(path.resolve())
        with safe_open(path, framework="pt") as file:
            for name in names:
                found.update(convert(_without_prefix(name), file.get_tensor(name), set(wanted)))
    missing = sorted(set(wanted) - set(found))
    wrong = [f"{name} is {tuple(found[name].shape)} there and {tuple(wanted[name].shape)} in the recipe"
             for name in wanted if name in found and found[name].shape != wanted[name].shape]
    if missing or wrong:
        told = [f"{len(missing)} tensors are missing, first {missing[0]}"] if missing else []
        raise CheckpointError("; ".join(told + wrong[:5]), where=source,
                              remedy="set model.vision to the shape of the source")
    return found


def convert(name: str, tensor: Tensor, wanted: set[str]) -> dict[str, Tensor]:
    """Return one stored tensor under the names of ``wanted``; fused query-key-value becomes three, others none."""
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    if ".attention.qkv." in name:
        parts = zip("qkv", tensor.chunk(3), strict=True)
        return {name.replace(".qkv.", f".{letter}_proj."): part.clone() for letter, part in parts}
    return {name: tensor} if name in wanted else {}


def _without_prefix(name: str) -> str:
    for marker in ("vision_tower.", "vision_model."):
        if marker in name:
            name = name.rpartition(marker)[2]
    return name


def _files(source: str) -> list[Path]:
    directory = Path(source)
    if not directory.is_dir():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        try:
            directory = Path(snapshot_download(source, allow_patterns=["*.safetensors"]))
        except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            raise CheckpointError("is no directory, and no such hub repository can be fetched", where=source,
                                  remedy="give a directory with *.safetensors") from error
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise CheckpointError("holds no *.safetensors file", where=source)
    return files


