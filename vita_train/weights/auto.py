"""Exported models through transformers' own loader, without remote code.

Importing this module registers the classes; then ``AutoModel.from_pretrained(directory)`` loads
what ``vita-train model export --to hf`` wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from vita_train.models.build import build_modules
from vita_train.models.inputs import PromptBatch
from vita_train.models.omni import Omni
from vita_train.recipe.model import ModelSpec
from vita_train.weights.export import without_sources


class VitaTrainConfig(PreTrainedConfig):
    """What the model is made of, in the words of a recipe."""

    model_type = "vita_train"

    def __init__(
        self,
        spec: dict[str, Any] | None = None,
        parts: Sequence[str] = (),
        ctc_vocab_size: int = 0,
        **other: Any,
    ) -> None:
        """Take a ``model`` section (ModelSpec), the names of its modules that are there, and the
        recogniser's units."""
        self.spec, self.parts, self.ctc_vocab_size = spec or {}, list(parts), ctc_vocab_size
        super().__init__(**other)


class VitaTrainModel(PreTrainedModel):
    """A language model with the parts beside it that were trained; children have the names of a
    recipe's modules."""

    config_class = VitaTrainConfig
    config: VitaTrainConfig
    main_input_name = "input_ids"

    def __init__(self, config: VitaTrainConfig) -> None:
        super().__init__(config)
        # transformers loads each tensor in the type it is made with, and asks for one by torch's
        # default.
        spec = without_sources(ModelSpec.model_validate(config.spec))
        modules = build_modules(
            spec,
            config.parts,
            ctc_vocab_size=config.ctc_vocab_size,
            dtype=torch.get_default_dtype(),
        )
        for name, module in modules.items():
            self.add_module(name, module)
        for (
            buffer
        ) in self.buffers():  # statistics and rotary rates are float32 whatever the weights are
            if buffer.is_floating_point():
                buffer.data = buffer.data.float()
        self.post_init()

    def modules_by_name(self) -> nn.ModuleDict:
        """Return the modules as the rest of this package takes them."""
        return nn.ModuleDict({name: self.get_submodule(name) for name in self.config.parts})

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        tiles: Tensor | None = None,
        fbank: Tensor | None = None,
        fbank_lengths: Tensor | None = None,
    ) -> CausalLMOutputWithPast:
        """Return logits (B, L, V).

        Args:
            input_ids: (B, L) long; IMAGE_ID and AUDIO_ID at every position that media fill.
            attention_mask: (B, L), 0 in padding.
            tiles: (N, 3, S, S) in reading order, uint8 or normalised.
            fbank: (A, T, bins) in reading order.
            fbank_lengths: (A,) real frames of each clip.
        """
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask.long()
        # Counted from each row's first real token, wherever it is padded
        positions = (real.cumsum(1) - 1).clamp(min=0)
        batch = PromptBatch(
            input_ids,
            positions,
            real,
            tiles,
            fbank,
            fbank_lengths,
            [str(row) for row in range(len(input_ids))],
        )
        omni = Omni(self.modules_by_name())
        return CausalLMOutputWithPast(logits=nn.functional.linear(omni(batch), omni.head_weight))


AutoConfig.register(VitaTrainConfig.model_type, VitaTrainConfig, exist_ok=True)
AutoModel.register(VitaTrainConfig, VitaTrainModel, exist_ok=True)
