"""Other people's checkpoints: the released names and shapes, written down by hand, and small files
of their kinds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

from vita_train.models.build import build_modules
from vita_train.recipe.model import ModelSpec
from vita_train.weights.formats.importing import ImportPlan, plan_import, write_import
from vita_train.weights.formats.source import open_source
from vita_train.weights.formats.tensor_locations import vita_location
from vita_train.weights.load import load_modules

NAMES = ("llm", "vision", "projector", "audio_encoder", "audio_adapter")

#: Published or logged parameter counts of each part.
EXPECTED_COUNTS = {
    "llm": 7_615_616_512,
    "vision": 304_012_288,
    "projector": 27_532_288,
    "audio_encoder": 357_950_464,
    "audio_adapter": 17_835_520,
}

Shape = tuple[int, ...]


def released_shapes() -> dict[str, Shape]:
    """Return {tensor name: shape} of the whole checkpoint."""
    return {
        **_language(),
        **_tower(),
        **_speech(),
        **_linear("model.mm_projector.0", 3584, 4096),
        **_linear("model.mm_projector.2", 3584, 3584),
    }


def _linear(name: str, out: int, into: int) -> dict[str, Shape]:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def _norm(name: str, width: int) -> dict[str, Shape]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _language() -> dict[str, Shape]:
    shapes: dict[str, Shape] = {
        "model.embed_tokens.weight": (152064, 3584),
        "lm_head.weight": (152064, 3584),
        "model.norm.weight": (3584,),
    }
    for k in range(28):
        layer = f"model.layers.{k}"
        shapes |= {
            **_linear(f"{layer}.self_attn.q_proj", 3584, 3584),
            **_linear(f"{layer}.self_attn.k_proj", 512, 3584),
            **_linear(f"{layer}.self_attn.v_proj", 512, 3584),
            f"{layer}.self_attn.o_proj.weight": (3584, 3584),
            f"{layer}.mlp.gate_proj.weight": (18944, 3584),
            f"{layer}.mlp.up_proj.weight": (18944, 3584),
            f"{layer}.mlp.down_proj.weight": (3584, 18944),
            f"{layer}.input_layernorm.weight": (3584,),
            f"{layer}.post_attention_layernorm.weight": (3584,),
        }
    return shapes


def _tower() -> dict[str, Shape]:
    start = "model.vision_tower.vision_tower"
    shapes: dict[str, Shape] = {
        f"{start}.embeddings.class_embedding": (1, 1, 1024),
        f"{start}.embeddings.position_embedding": (1, 1025, 1024),
        f"{start}.embeddings.patch_embedding.weight": (1024, 3, 14, 14),
        f"{start}.embeddings.patch_embedding.bias": (1024,),
    }
    for k in range(24):
        layer = f"{start}.encoder.layers.{k}"
        shapes |= {
            **_linear(f"{layer}.attn.qkv", 3072, 1024),
            **_linear(f"{layer}.attn.proj", 1024, 1024),
            **_linear(f"{layer}.mlp.fc1", 4096, 1024),
            **_linear(f"{layer}.mlp.fc2", 1024, 4096),
            **_norm(f"{layer}.norm1", 1024),
            **_norm(f"{layer}.norm2", 1024),
            f"{layer}.ls1": (1024,),
            f"{layer}.ls2": (1024,),
        }
    return shapes


def _speech() -> dict[str, Shape]:
    start = "model.audio_encoder.encoder"
    shapes: dict[str, Shape] = {
        f"{start}.global_cmvn.mean": (80,),
        f"{start}.global_cmvn.istd": (80,),
        f"{start}.enc.0.core.conv.0.weight": (1024, 1, 3, 3),
        f"{start}.enc.0.core.conv.0.bias": (1024,),
        f"{start}.enc.0.core.conv.2.weight": (1024, 1024, 3, 3),
        f"{start}.enc.0.core.conv.2.bias": (1024,),
        **_linear(f"{start}.enc.0.core.out.0", 1024, 19 * 1024),
        **_linear(f"{start}.enc.1.embed.0", 1024, 1024),
        **_norm(f"{start}.enc.1.embed.1", 1024),
        **_norm(f"{start}.enc.1.after_norm", 1024),
    }
    for k in range(24):
        layer = f"{start}.enc.1.encoders.{k}"
        for letter in ("q", "k", "v", "out"):
            shapes |= _linear(f"{layer}.self_attn.linear_{letter}", 1024, 1024)
        shapes |= {
            f"{layer}.self_attn.linear_pos.weight": (1024, 1024),
            f"{layer}.self_attn.pos_bias_u": (16, 64),
            f"{layer}.self_attn.pos_bias_v": (16, 64),
            **_linear(f"{layer}.feed_forward.w_1", 4096, 1024),
            **_linear(f"{layer}.feed_forward.w_2", 1024, 4096),
            **_norm(f"{layer}.norm1", 1024),
            **_norm(f"{layer}.norm2", 1024),
        }
    adapter = "model.audio_encoder.adpter"
    return shapes | {
        f"{adapter}.conv1d2.weight": (2048, 1024, 5),
        f"{adapter}.conv1d2.bias": (2048,),
        **_norm(f"{adapter}.bn2", 2048),
        **_linear(f"{adapter}.project", 3584, 2048),
    }


def build(spec: ModelSpec, seed: int = 1, names: tuple[str, ...] = NAMES) -> nn.ModuleDict:
    """Modules whose every tensor is random, so that none can be taken for another."""
    modules = build_modules(spec, names, ctc_vocab_size=7, seed=seed).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in modules.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.1)
    return modules


def released(modules: nn.ModuleDict, spec: ModelSpec | None = None) -> dict[str, Tensor]:
    """The tensors of modules as the released checkpoint holds them, joined by hand."""
    spec = spec or ModelSpec()
    found: dict[str, dict[int, Tensor]] = {}
    for module in modules:
        for name, tensor in modules[module].state_dict().items():
            place = vita_location(module, name, spec)
            assert place is not None
            found.setdefault(place.name, {})[place.part] = tensor
    return {
        name: torch.cat([parts[k] for k in sorted(parts)]) if len(parts) > 1 else parts[0]
        for name, parts in found.items()
    }


def plan(
    path: Path, spec: ModelSpec, names: tuple[str, ...] = (), layout: str = "", prefix: str = ""
) -> ImportPlan:
    return plan_import(open_source(path, layout, prefix=prefix), spec, names)


def imported(
    path: Path,
    spec: ModelSpec,
    out: Path,
    names: tuple[str, ...] = (),
    prefix: str = "",
    layout: str = "",
) -> nn.ModuleDict:
    """Modules of the specification that started from an import of ``path``."""
    summary = write_import(plan(path, spec, names, layout, prefix), out)
    modules = build_modules(spec, summary["modules"], ctc_vocab_size=7, seed=9).eval()
    load_modules(
        modules,
        {
            name: tuple(out / file for file in entry["files"])
            for name, entry in summary["modules"].items()
        },
    )
    return modules


def write_shards(tensors: dict[str, Tensor], directory: Path, count: int = 3) -> None:
    """Write tensors as shards with an index, as transformers does."""
    names = sorted(tensors)
    weight_map = {}
    for k in range(count):
        file = f"model-{k + 1:05d}-of-{count:05d}.safetensors"
        save_file({name: tensors[name] for name in names[k::count]}, directory / file)
        weight_map |= dict.fromkeys(names[k::count], file)
    (directory / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )


#: What train.yaml says of the small model's encoder and adapter, by the public keys.
ENCODER_SETTINGS: dict[str, Any] = {
    "input_dim": 80,
    "encoder_conf": {
        "overview_conf": {
            "encoder-input-dim": 80,
            "encoder-output-dim": 16,
            "encoder-layer-config": "subsampling-transformer",
        },
        "para_conf": {
            "subsampling": {
                "subsampling-rate": 4,
                "subsampling-input-dim": 80,
                "subsampling-output-dim": 16,
                "subsampling-dropout-rate": 0.1,
            },
            "transformer": {
                "transformer-input-dim": 16,
                "transformer-output-dim": 16,
                "transformer-attention-dim": 16,
                "transformer-attention-heads": 2,
                "transformer-linear-units": 24,
                "transformer-num-blocks": 2,
                "transformer-dropout-rate": 0.1,
                "transformer-attention-dropout-rate": 0.1,
                "transformer-positional-dropout-rate": 0.1,
                "transformer-input-layer": "linear",
                "transformer-pos-enc-class": "rel-enc",
                "transformer-normalize-before": True,
                "transformer-concat-after": False,
                "transformer-chunk_size": -1,
                "transformer-left_chunks": -1,
                "transformer-dynamic-chunks": True,
            },
        },
    },
    "model_conf": {
        "enc_out_dim": 16,
        "llm_embed_dim": 32,
        "kernel_size": 5,
        "adpter_type": "subsampling",
        "activation_func": "gelu",
        "norm": "layer",
    },
    "dataset_conf": {
        "resample_conf": {"resample_rate": 16000},
        "fbank_conf": {"num_mel_bins": 80, "frame_length": 25, "frame_shift": 10, "dither": 1.0},
    },
}


def write_speech_directory(
    modules: nn.ModuleDict,
    directory: Path,
    statistics_text: str,
    *,
    statistics: bool = True,
    settings: str = "",
    spec: ModelSpec | None = None,
) -> None:
    """Write the directory of a speech encoder; without settings, those that fit its modules."""
    start = "model.audio_encoder."
    state = {
        name.removeprefix(start): tensor
        for name, tensor in released(modules, spec).items()
        if name.startswith(start)
    }
    if not statistics:
        state = {name: tensor for name, tensor in state.items() if "global_cmvn" not in name}
    torch.save(state, directory / "final.pt")
    (directory / "global_cmvn").write_text(statistics_text)
    (directory / "train.yaml").write_text(settings or yaml.safe_dump(ENCODER_SETTINGS))
