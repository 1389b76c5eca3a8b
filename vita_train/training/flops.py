"""What modules compute, in floating-point operations."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import nn

from vita_train.data.sampling.deal import Costs
from vita_train.models.activations import transformer_blocks
from vita_train.models.language.decoder import read_share
from vita_train.models.quantize import elements
from vita_train.recipe.model import ModelSpec

#: Filterbank frames that become one position of the speech encoder.
_FRAMES_A_POSITION = 4


def flops_per_position(
    modules: Mapping[str, nn.Module], frozen: Collection[str]
) -> dict[str, float]:
    """Return by module about how much a position takes, forward and backward, in FLOP.

    The usual estimate: 2 a parameter forward, 2 for its input's gradient, 2 for its own. Of experts
    those count that a position is read by. Attention's quadratic part and recomputed activations do
    not count.

    Args:
        modules: by their names in ``recipe.modules.MODULES``.
        frozen: those without gradients of their own.
    """
    # What stands before a frozen language model still wants gradients through it
    before_llm = any(name != "llm" and name not in frozen for name in modules)
    found = {}
    for name, module in modules.items():
        passes_on = name not in frozen or (name == "llm" and before_llm)
        found[name] = sum(
            elements(parameter)
            * read_share(module, inner)
            * (6 if name not in frozen and parameter.requires_grad else 4 if passes_on else 2)
            for inner, parameter in module.named_parameters()
        )
    return found


def row_costs(spec: ModelSpec, modules: Mapping[str, nn.Module], frozen: Collection[str]) -> Costs:
    """Return what the parts of a packed row take in a stage, in FLOP.

    Embeddings are looked up, and only supervised positions are projected to the vocabulary: of the
    language model its blocks count, and attention within documents.
    """
    flops = flops_per_position(modules, frozen)
    blocks = sum(
        elements(parameter)
        for block in transformer_blocks({"llm": modules["llm"]})
        for parameter in block.parameters()
    )
    # Without embeddings and head, which are left out of a token's cost
    share = blocks / sum(elements(parameter) for parameter in modules["llm"].parameters())
    trains = any(name not in frozen for name in modules)
    llm = spec.llm
    width = llm.num_heads * (llm.head_dim or llm.hidden_size // llm.num_heads)
    return Costs(
        token=flops["llm"] * share,
        tile=flops.get("vision", 0.0) * spec.vision.positions
        + flops.get("projector", 0.0) * spec.tokens_per_tile,
        frame=flops.get("audio_encoder", 0.0) / _FRAMES_A_POSITION
        + flops.get("audio_adapter", 0.0) * _adapter_share(spec),
        # Two products of n * n / 2 pairs, 2 FLOP each, and twice that backward.
        pair=2.0 * width * llm.num_layers * (3 if trains else 1),
    )


def _adapter_share(spec: ModelSpec) -> float:
    """Return the positions of the adapter that a frame becomes."""
    # Long enough that rounding up to a whole position hardly counts
    frames = 1000
    return spec.audio_adapter.tokens_of(frames) / frames
