"""The matrices of a language model in 4 or 8 bit, by bitsandbytes, for training what stands beside
them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from vita_train.errors import RecipeError
from vita_train.models.activations import transformer_blocks
from vita_train.models.quiet import quiet_bitsandbytes
from vita_train.recipe.lora import QuantizeSpec

#: Inputs of a layer above this stay in 16 bit (Dettmers et al. 2022, LLM.int8, section 3.2).
_OUTLIER = 6.0


def import_bitsandbytes(*, where: str = "quantize") -> Any:
    """Return the library, without what it says at every call.

    Raises:
        RecipeError: it is not installed.
    """
    quiet_bitsandbytes()
    try:
        import bitsandbytes
    except ImportError as error:
        raise RecipeError(
            "bitsandbytes is not installed",
            code="VT-RECIPE-023",
            where=where,
            remedy="pip install 'vita-train[quant]', or take quantize out",
        ) from error
    return bitsandbytes


@torch.no_grad()
def quantize_blocks(
    llm: nn.Module,
    spec: QuantizeSpec,
    *,
    device: torch.device,
    dtype: torch.dtype,
    where: str = "quantize",
) -> None:
    """Replace every linear layer in the blocks of a language model by a quantised one, in place.

    Head, embeddings and norms stay. Nothing is drawn: the same weights give the same bytes.

    Args:
        llm: in full precision.
        spec: kind of the weights.
        device: where the quantised weights shall lie.
        dtype: type that 4-bit layers compute in.

    Raises:
        RecipeError: bitsandbytes is not installed.
    """
    library = import_bitsandbytes(where=where)
    for block in transformer_blocks({"llm": llm}):
        for name, layer in list(block.named_modules()):
            if isinstance(layer, nn.Linear):
                block.set_submodule(name, _quantized(library, layer, spec, device, dtype))
    # By these PEFT knows which kind of adapter a layer needs.
    setattr(llm, f"is_loaded_in_{spec.bits}bit", True)


def _quantized(
    library: Any, layer: nn.Linear, spec: QuantizeSpec, device: torch.device, dtype: torch.dtype
) -> nn.Module:
    sizes, meta = (layer.in_features, layer.out_features), torch.device("meta")
    if spec.bits == 4:
        # On meta, and without bias: both are put in below, so that nothing is laid out twice
        new = library.nn.Linear4bit(*sizes, bias=False, compute_dtype=dtype, device=meta)
        # Else measuring on some processors would lay out the weights anew, which training cannot
        # read.
        new.support_avx512bf16_for_cpu = False
        # Moving it to a device is what quantises
        new.weight = library.nn.Params4bit(
            layer.weight.data,
            requires_grad=False,
            quant_type=spec.kind,
            compress_statistics=spec.double,
            module=new,
        ).to(device)
    else:
        new = library.nn.Linear8bitLt(
            *sizes, bias=False, has_fp16_weights=False, threshold=_OUTLIER, device=meta
        )
        new.weight = library.nn.Int8Params(layer.weight.data.cpu(), requires_grad=False).to(device)
    new.bias = layer.bias
    return new.train(layer.training)


def elements(parameter: nn.Parameter) -> int:
    """Return the weights that a parameter stands for: a 4-bit one holds two to a byte."""
    state = getattr(parameter, "quant_state", None)  # of bitsandbytes, which may not be installed
    return int(state.shape.numel()) if state is not None else parameter.numel()


def quantized_bytes(layer: nn.Linear, spec: QuantizeSpec) -> int:
    """Return the bytes that a layer's matrix takes once it is quantised, scales included."""
    count = layer.weight.numel()
    if spec.bits == 8:
        # A byte each, and a float32 scale for every row
        return count + 4 * layer.out_features
    # A float32 scale for 64 weights each; double (QLoRA, Dettmers et al. 2023) makes them a byte,
    # with a float32 for 256 of those
    blocks = -(-count // 64)
    scales = blocks + 4 * -(-blocks // 256) if spec.double else 4 * blocks
    return count // 2 + scales
