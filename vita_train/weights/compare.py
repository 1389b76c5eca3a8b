"""Are two models the same, in weights and in what they say?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vita_train.models.inputs import Prompt, left_padded
from vita_train.models.omni import Omni
from vita_train.recipe.special_ids import AUDIO_ID, IMAGE_ID

#: Filterbank frames of the probe's clip: 14 encoder frames.
_FRAMES = 59


def difference(left: nn.ModuleDict, right: nn.ModuleDict) -> str:
    """Return the first difference found between two models, in words; empty if they agree bit for
    bit.

    Compared are all tensors, and the logits of a probe with text, an image and a clip as far as the
    modules allow.
    """
    for name, module in right.items():
        stored = module.state_dict()
        for key, tensor in left[name].state_dict().items():
            if key not in stored:
                return f"{name}.{key} is missing"
            # torch.equal refuses tensors of different types instead of saying that they differ
            if tensor.dtype != stored[key].dtype or not torch.equal(tensor, stored[key]):
                return f"{name}.{key} differs"
    if "llm" in right and not torch.equal(probe_logits(left), probe_logits(right)):
        return "the logits of a probe differ"
    return ""


@torch.no_grad()
def probe_logits(modules: nn.ModuleDict, prompt: Prompt | None = None) -> Tensor:
    """Return the logits (1, positions, V) of a prompt; of ``probe`` when none is given."""
    omni = Omni(modules)
    batch = left_padded([prompt or probe(modules)], omni.head_weight.device)
    hidden = omni(batch)
    return torch.nn.functional.linear(hidden, omni.head_weight.to(hidden.dtype))


@torch.no_grad()
def probe(modules: nn.ModuleDict) -> Prompt:
    """Return a fixed prompt with text, and with an image and a clip where the modules can take
    them."""
    generator = torch.Generator().manual_seed(0)
    omni = Omni(modules)
    vocabulary = omni.head_weight.shape[0]
    ids = [torch.randint(0, vocabulary, (16,), generator=generator)]
    tiles: Tensor | None = None
    clips: tuple[Tensor, ...] = ()
    if "vision" in modules and "projector" in modules:
        tower = omni.vision.spec
        # Floats, which towers take as normalised: no rounding to pixels hides a difference
        tiles = torch.randn(1, 3, tower.tile_size, tower.tile_size, generator=generator)
        # How many positions the image fills is the projector's to say; the tower need not run for
        # that.
        weight = next(omni.projector.parameters(), omni.head_weight)
        blank = weight.new_zeros(1, tower.num_tokens, tower.feature_size)
        ids.append(torch.full((omni.projector(blank).shape[1],), IMAGE_ID))
    if "audio_encoder" in modules and "audio_adapter" in modules:
        clips = (torch.randn(_FRAMES, omni.audio_encoder.spec.num_mel_bins, generator=generator),)
        ids.append(torch.full((omni.audio_positions(_FRAMES),), AUDIO_ID))
    return Prompt(torch.cat(ids), tiles, clips, "probe")


@contextmanager
def computed_in_float32(module: nn.Module) -> Iterator[None]:
    """Let a module with weights in half precision compute in float32, each layer's weights copied
    while it runs.

    A copy of the whole would take twice the memory of the weights, which may be in files. Layers
    are modules with parameters of their own; what a module reads of its parts' weights, a type for
    instance, it reads as stored.
    """
    kept: dict[nn.Parameter, Tensor] = {}

    def widen(layer: nn.Module, _: Any) -> None:
        for parameter in layer.parameters(recurse=False):
            kept[parameter], parameter.data = parameter.data, parameter.data.float()

    def restore(layer: nn.Module, *_: Any) -> None:
        for parameter in layer.parameters(recurse=False):
            parameter.data = kept.pop(parameter)

    with ExitStack() as hooks:
        for layer in module.modules():
            if any(
                parameter.dtype != torch.float32 for parameter in layer.parameters(recurse=False)
            ):
                hooks.enter_context(layer.register_forward_pre_hook(widen))
                # always_call: weights are put back also where the layer raises
                hooks.enter_context(layer.register_forward_hook(restore, always_call=True))
        yield
