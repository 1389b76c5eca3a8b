"""The released VITA-1.5 checkpoint as published: every tensor name with its shape, written down by hand."""

from __future__ import annotations

#: Published or logged parameter counts of each part.
EXPECTED_COUNTS = {"llm": 7_615_616_512, "vision": 304_012_288, "projector": 27_532_288,
                   "audio_encoder": 357_950_464, "audio_adapter": 17_835_520}

Shape = tuple[int, ...]


def released_shapes() -> dict[str, Shape]:
    """Return {tensor name: shape} of the whole checkpoint."""
    return {**_language(), **_tower(), **_speech(),
            **_linear("model.mm_projector.0", 3584, 4096), **_linear("model.mm_projector.2", 3584, 3584)}


def _linear(name: str, out: int, into: int) -> dict[str, Shape]:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def _norm(name: str, width: int) -> dict[str, Shape]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _language() -> dict[str, Shape]:
    shapes: dict[str, Shape] = {"model.embed_tokens.weight": (152064, 3584), "lm_head.weight": (152064, 3584),
                                "model.norm.weight": (3584,)}
    for k in range(28):
        layer = f"model.layers.{k}"
        shapes |= {**_linear(f"{layer}.self_attn.q_proj", 3584, 3584), **_linear(f"{layer}.self_attn.k_proj", 512, 3584),
                   **_linear(f"{layer}.self_attn.v_proj", 512, 3584),
                   f"{layer}.self_attn.o_proj.weight": (3584, 3584),
                   f"{layer}.mlp.gate_proj.weight": (18944, 3584), f"{layer}.mlp.up_proj.weight": (18944, 3584),
                   f"{layer}.mlp.down_proj.weight": (3584, 18944),
                   f"{layer}.input_layernorm.weight": (3584,), f"{layer}.post_attention_layernorm.weight": (3584,)}
    return shapes


def _tower() -> dict[str, Shape]:
    start = "model.vision_tower.vision_tower"
    shapes: dict[str, Shape] = {f"{start}.embeddings.class_embedding": (1, 1, 1024),
                                f"{start}.embeddings.position_embedding": (1, 1025, 1024),
                                f"{start}.embeddings.patch_embedding.weight": (1024, 3, 14, 14),
                                f"{start}.embeddings.patch_embedding.bias": (1024,)}
    for k in range(24):
        layer = f"{start}.encoder.layers.{k}"
        shapes |= {**_linear(f"{layer}.attn.qkv", 3072, 1024), **_linear(f"{layer}.attn.proj", 1024, 1024),
                   **_linear(f"{layer}.mlp.fc1", 4096, 1024), **_linear(f"{layer}.mlp.fc2", 1024, 4096),
                   **_norm(f"{layer}.norm1", 1024), **_norm(f"{layer}.norm2", 1024),
                   f"{layer}.ls1": (1024,), f"{layer}.ls2": (1024,)}
    return shapes


def _speech() -> dict[str, Shape]:
    start = "model.audio_encoder.encoder"
    shapes: dict[str, Shape] = {
        f"{start}.global_cmvn.mean": (80,), f"{start}.global_cmvn.istd": (80,),
        f"{start}.enc.0.core.conv.0.weight": (1024, 1, 3, 3), f"{start}.enc.0.core.conv.0.bias": (1024,),
        f"{start}.enc.0.core.conv.2.weight": (1024, 1024, 3, 3), f"{start}.enc.0.core.conv.2.bias": (1024,),
        **_linear(f"{start}.enc.0.core.out.0", 1024, 19 * 1024),
        **_linear(f"{start}.enc.1.embed.0", 1024, 1024), **_norm(f"{start}.enc.1.embed.1", 1024),
        **_norm(f"{start}.enc.1.after_norm", 1024)}
    for k in range(24):
        layer = f"{start}.enc.1.encoders.{k}"
        for letter in ("q", "k", "v", "out"):
            shapes |= _linear(f"{layer}.self_attn.linear_{letter}", 1024, 1024)
        shapes |= {f"{layer}.self_attn.linear_pos.weight": (1024, 1024),
                   f"{layer}.self_attn.pos_bias_u": (16, 64), f"{layer}.self_attn.pos_bias_v": (16, 64),
                   **_linear(f"{layer}.feed_forward.w_1", 4096, 1024),
                   **_linear(f"{layer}.feed_forward.w_2", 1024, 4096),
                   **_norm(f"{layer}.norm1", 1024), **_norm(f"{layer}.norm2", 1024)}
    adapter = "model.audio_encoder.adpter"
    return shapes | {f"{adapter}.conv1d2.weight": (2048, 1024, 5), f"{adapter}.conv1d2.bias": (2048,),
                     **_norm(f"{adapter}.bn2", 2048), **_linear(f"{adapter}.project", 3584, 2048)}
