"""The transformer blocks of the model, and activation checkpointing: the inputs of blocks are kept,
the rest is computed again in backward, all of it or all but attention."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import Any, Literal, cast

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from vita_train.recipe.model import LlmSpec, ModelSpec

#: Operators of the package flash-attn.
_FLASH_ATTN = ("_flash_attn_varlen_forward", "_flash_attn_forward")

Modules = Mapping[str, nn.Module] | nn.ModuleDict
Policy = Literal["off", "selective", "full"] | int
"""What a module's blocks compute again: nothing, all but attention, or everything. A number: all
but attention in so many blocks, and nothing in those behind them."""

#: Bytes of a number in float32.
_FLOAT32 = 4
#: Modules that are made of transformer blocks. The others are small, and a codec counts what its
#: codebooks see in forward, which may run once only.
_MADE_OF_BLOCKS = ("llm", "vision", "audio_encoder", "speech_decoder")


def transformer_blocks(modules: Modules) -> Iterator[nn.Module]:
    """Yield the transformer blocks of those modules that have some, in order.

    The one rule for what is treated as a unit: activation checkpointing computes each block again,
    FSDP2 shards each by itself, and quantisation touches their matrices alone.

    Args:
        modules: by their names in ``recipe.modules.MODULES``; others are passed over.
    """
    for name in _MADE_OF_BLOCKS:
        if name == "llm" and name in modules:  # a causal language model of transformers
            yield from cast("nn.ModuleList", modules[name].get_submodule("model").layers)
        elif name in modules:
            yield from cast("nn.ModuleList", modules[name].blocks)


def enable_checkpointing(modules: Modules, policies: Mapping[str, Policy] | None = None) -> None:
    """Checkpoint the transformer blocks of the modules.

    The library's own switch acts in train mode only; a frozen language model is in eval mode and
    still has to carry gradients to what stands before it, so blocks are wrapped here wherever
    gradients are on.

    Args:
        modules: by their names in ``recipe.modules.MODULES``; others than those made of blocks are
            passed over.
        policies: by module; those that are not named keep everything. None: each computes all of it
            again.
    """
    for name in _MADE_OF_BLOCKS:
        policy: Policy = "full" if policies is None else policies.get(name, "off")
        if name in modules and policy != "off":
            blocks = list(transformer_blocks({name: modules[name]}))
            for block in blocks[:policy] if isinstance(policy, int) else blocks:
                # On the instance: a module around the block would change the names of its
                # parameters
                block.forward = _checkpointed(block.forward, selective=policy != "full")


def choose_policies(
    spec: ModelSpec, trained: Collection[str], tokens: int, free: float
) -> dict[str, Policy]:
    """Return what ``engine.checkpoint_activations: auto`` comes to.

    Keeping everything is fastest: what is computed again takes as long as the first time, a quarter
    of a step where everything trains. A language model keeps it in as many blocks as fit; the rest
    keep their inputs and what attention gave, which is dearest to repeat and small. These are the
    first blocks: by the time they are computed again, the others have let go of theirs. Towers that
    train keep as little in all blocks wherever memory counts. A frozen tower has nothing before it
    that trains, and keeps nothing anyway.

    Args:
        spec: of the model.
        trained: modules that train.
        tokens: positions of a micro-batch.
        free: bytes that activations may take; infinite where memory does not count.
    """
    if math.isinf(free):
        return {}
    policies: dict[str, Policy] = {name: "selective" for name in _MADE_OF_BLOCKS if name in trained}
    llm, trains = spec.llm, "llm" in trained
    again = blocks_again(llm, tokens, free, trains=trains)
    # What trained experts keep depends on how positions are shared out among them
    if again == llm.num_layers or (trains and llm.moe is not None):
        policies["llm"] = "selective"
    elif again:
        policies["llm"] = again
    else:
        policies.pop("llm", None)
    return policies


def blocks_again(llm: LlmSpec, tokens: int, free: float, *, trains: bool) -> int:
    """Return the least number of a language model's blocks that have to compute again, all but
    attention, for the rest to keep everything within ``free`` bytes.

    Args as of `llm_bytes`.
    """
    whole = llm_bytes(llm, tokens, trains=trains) / llm.num_layers
    head = llm.head_dim or llm.hidden_size // llm.num_heads
    # Its input, as wide as the sum of all blocks so far is, and what attention gave
    least = tokens * (_FLOAT32 * llm.hidden_size + 2 * head * llm.num_heads)
    over = llm.num_layers * whole - free
    return min(llm.num_layers, max(0, math.ceil(over / (whole - least))))


def llm_bytes(llm: LlmSpec, tokens: int, *, trains: bool, width: int = 2) -> int:
    """Return what the blocks of a language model keep for backward, in bytes.

    Kept are of each block what both norms read, in float32, queries, keys, values and the output of
    attention, and the gate before and after its nonlinearity with what it is multiplied by. Where
    it trains, its weights need what they are multiplied with as well: norms what they have normed,
    in float32, and matrices their inputs, of which below float32 each has a copy of its own.

    Args:
        llm: its shape.
        tokens: positions.
        trains: whether it does; a frozen one passes gradients on.
        width: bytes of a number in the compute type.
    """
    head = llm.head_dim or llm.hidden_size // llm.num_heads
    # Queries and outputs have the query heads, keys and values their own
    attention = 2 * head * (llm.num_heads + llm.num_kv_heads) * width
    norms, gates = 2 * _FLOAT32 * llm.hidden_size, 3 * llm.intermediate_size * width
    kept = attention + norms + gates
    if trains:
        # Behind the first norm queries, keys and values, behind the second the gate and its factor;
        # and what attention gave, in the order that its matrix reads
        copies = (2 if width == _FLOAT32 else 3 + 2) + 1
        kept += norms + (copies * llm.hidden_size + llm.intermediate_size) * width
    return tokens * llm.num_layers * kept


def _checkpointed(inner: Callable[..., Any], *, selective: bool) -> Callable[..., Any]:
    # The reentrant kind takes neither keyword arguments nor a context_fn, and drops gradients where
    # no input asks for any
    options: dict[str, Any] = {"use_reentrant": False}
    if selective:
        options["context_fn"] = partial(create_selective_checkpoint_contexts, _attention_ops())

    def forward(*args: Any, **kwargs: Any) -> Any:
        # Frozen towers run without gradients: nothing would be kept, and nothing has to be repeated
        if not torch.is_grad_enabled():
            return inner(*args, **kwargs)
        return checkpoint(inner, *args, **options, **kwargs)

    return forward


def _attention_ops() -> list[Any]:
    """Return the kernels whose outputs are worth keeping."""
    # Importing them is what defines torch.ops.torch_attn and torch.ops.flash_attn
    import torch.nn.attention.varlen

    if importlib.util.find_spec("flash_attn") is not None:
        importlib.import_module("flash_attn")
    aten, package = torch.ops.aten, torch.ops.flash_attn
    # As the package names them from 2.7 on; an older one defines no operator to keep
    names = [name for name in _FLASH_ATTN if hasattr(package, name)]
    return [
        *(getattr(package, name).default for name in names),
        aten._scaled_dot_product_flash_attention.default,
        aten._scaled_dot_product_flash_attention_for_cpu.default,
        aten._scaled_dot_product_efficient_attention.default,
        aten._scaled_dot_product_cudnn_attention.default,
        torch.ops.torch_attn._varlen_attn.default,
    ]
