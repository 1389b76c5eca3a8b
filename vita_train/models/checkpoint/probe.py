"""Are two models the same, in weights and in what they say?"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vita_train.models.generate import left_padded
from vita_train.models.inputs import AUDIO_ID, IMAGE_ID, Prompt
from vita_train.models.omni import Omni

#: Filterbank frames of the probe's clip: 14 encoder frames.
_FRAMES = 59


def difference(left: nn.ModuleDict, right: nn.ModuleDict) -> str:
    """Return the first difference found between two models, in words; empty if they agree bit for bit.

    Compared are all tensors, and the logits of a probe with text, a picture and a clip as far as the modules allow.
    """
    for name, module in right.items():
        stored = module.state_dict()
        for key, tensor in left[name].state_dict().items():
            if key not in stored:
                return f"{name}.{key} is missing"
            if tensor.dtype != stored[key].dtype or not torch.equal(tensor, stored[key]):
                return f"{name}.{key} differs"
    if "llm" in right and not torch.equal(probe_logits(left), probe_logits(right)):
        return "the logits of a probe differ"
    return ""


@torch.no_grad()
def probe_logits(modules: nn.ModuleDict) -> Tensor:
    """Return the logits (positions, V) of a fixed prompt that uses every input the modules have."""
    generator = torch.Generator().manual_seed(0)
    omni = Omni(modules)
    vocabulary = omni.head_weight.shape[0]
    ids = [torch.randint(0, vocabulary, (16,), generator=generator)]
    tiles: Tensor | None = None
    clips: tuple[Tensor, ...] = ()
    if "vision" in modules and "projector" in modules:
        side = omni.vision.spec.tile_size
        tiles = torch.randn(1, 3, side, side, generator=generator)
        ids.append(torch.full((len(omni.image_features(tiles)),), IMAGE_ID))
    if "audio_encoder" in modules and "audio_adapter" in modules:
        clips = (torch.randn(_FRAMES, omni.audio_encoder.spec.num_mel_bins, generator=generator),)
        ids.append(torch.full((omni.audio_positions(_FRAMES),), AUDIO_ID))
    prompt = Prompt(torch.cat(ids), tiles, clips, "probe")
    batch = left_padded([prompt], omni.head_weight.device)
    return torch.nn.functional.linear(omni(batch)[0], omni.head_weight)
