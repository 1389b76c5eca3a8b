"""A tower of every kind, small enough to run in milliseconds."""

from __future__ import annotations

from typing import Any

from vita_train.recipe.model import ModelSpec

_SHAPE = {"hidden_size": 16, "num_heads": 2, "intermediate_size": 24}
#: By a name to show. Grids of 2, 3, 3, 4 and 5; SigLIP's tiles end in two pixels that no patch
#: covers.
TOWERS: dict[str, dict[str, Any]] = {
    "internvit": {"image_size": 32, "patch_size": 8, "num_layers": 2, "drop_path": 0.0, **_SHAPE},
    "siglip": {"kind": "siglip", "image_size": 26, "patch_size": 8, "num_layers": 3, **_SHAPE},
    "siglip s2": {
        "kind": "siglip",
        "image_size": 26,
        "patch_size": 8,
        "num_layers": 3,
        "scales": [26, 52, 78],
        **_SHAPE,
    },
    "clip": {"kind": "clip", "image_size": 32, "patch_size": 8, "num_layers": 3, **_SHAPE},
    "eva_clip": {
        "kind": "eva_clip",
        "image_size": 40,
        "patch_size": 8,
        "num_layers": 3,
        "rope_grid": 4,
        **_SHAPE,
    },
}
PROJECTORS = (
    "linear",
    "mlp1x_gelu",
    "mlp2x_gelu",
    "mlp3x_gelu",
    "spp_v1",
    "spp_v2",
    "spp_v3",
    "ldp",
    "vanilla",
    "minigpt",
    "mlp_downsample",
)


def model_of(
    vision: dict[str, Any], projector: str = "mlp2x_gelu", *, width: int = 32
) -> ModelSpec:
    """Return a small model around a tower."""
    return ModelSpec.model_validate(
        {
            "dtype": "float32",
            "llm": {
                "vocab_size": 97,
                "hidden_size": width,
                "num_layers": 1,
                "num_heads": 4,
                "num_kv_heads": 2,
                "intermediate_size": 48,
                "max_positions": 256,
                "rope_theta": 10000.0,
            },
            "vision": vision,
            "projector": {"kind": projector},
            "speech_decoder": {"width": width},
        }
    )
