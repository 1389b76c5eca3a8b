import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vita_train.models.vision import VisionTower
from vita_train.models.vision.internvit import pixel_shuffle
from vita_train.models.vision.stochastic_depth import StochasticDepth


def test_pixel_shuffle_orders_channels_by_dy_dx_c() -> None:
    # Every entry names its own place: 1000 y + 100 x + c.
    y, x, c = torch.arange(4), torch.arange(6), torch.arange(3)
    ramp = (1000 * y[:, None, None] + 100 * x[None, :, None] + c)[None].float()
    folded = pixel_shuffle(ramp, 2)
    assert folded.shape == (1, 2, 3, 12)
    expected = [1000 * dy + 100 * dx + c for dy in (2, 3) for dx in (4, 5) for c in range(3)]
    assert folded[0, 1, 2].tolist() == expected


def test_pixel_shuffle_is_internvls_second_ordering() -> None:
    grid = torch.randn(2, 8, 8, 5)
    # As published: fold the second axis into channels, swap the axes, fold again, swap back.
    step = grid.reshape(2, 8, 4, 10).permute(0, 2, 1, 3).reshape(2, 4, 4, 20).permute(0, 2, 1, 3)
    assert torch.equal(pixel_shuffle(grid, 2), step)


def plain_tower(tower: VisionTower, tiles: Tensor) -> Tensor:
    """InternViT written out from its tensors alone: 8-pixel patches of 32-pixel tiles, 2 heads."""
    w = {name.removeprefix("model."): value for name, value in tower.state_dict().items()}
    width = w["embeddings.cls_token"].shape[-1]
    kernel = w["embeddings.patch_embeddings.projection.weight"].reshape(width, -1)
    patches = F.unfold(tiles, 8, stride=8).transpose(1, 2)
    hidden = patches @ kernel.T + w["embeddings.patch_embeddings.projection.bias"]
    hidden = torch.cat((w["embeddings.cls_token"].expand(len(tiles), -1, -1), hidden), 1)
    hidden = hidden + w["embeddings.position_embeddings"]
    for index in range(2):

        def linear(x: Tensor, name: str, block: str = f"encoder.layer.{index}.") -> Tensor:
            return x @ w[f"{block}{name}.weight"].T + w[f"{block}{name}.bias"]

        def norm(x: Tensor, name: str, block: str = f"encoder.layer.{index}.") -> Tensor:
            centred = x - x.mean(-1, keepdim=True)
            scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
            return scaled * w[f"{block}{name}.weight"] + w[f"{block}{name}.bias"]

        normed = norm(hidden, "layernorm_before")
        heads = [
            linear(normed, f"attention.{part}_proj").unflatten(-1, (2, width // 2)).transpose(1, 2)
            for part in "qkv"
        ]
        weights = (heads[0] @ heads[1].transpose(-1, -2) / (width // 2) ** 0.5).softmax(-1)
        mixed = linear(
            (weights @ heads[2]).transpose(1, 2).flatten(2), "attention.projection_layer"
        )
        hidden = hidden + w[f"encoder.layer.{index}.lambda_1"] * mixed
        inner = F.gelu(linear(norm(hidden, "layernorm_after"), "mlp.fc1"))
        hidden = hidden + w[f"encoder.layer.{index}.lambda_2"] * linear(inner, "mlp.fc2")
    grid = 0.5 * hidden[:, 1:].unflatten(1, (4, 4))
    tokens = [grid[:, y : y + 2, x : x + 2].flatten(1) for y in (0, 2) for x in (0, 2)]
    return torch.stack(tokens, 1)


def test_the_tower_equals_its_plain_derivation(modules: nn.ModuleDict) -> None:
    tiles = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        for parameter in modules["vision"].parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        torch.testing.assert_close(
            modules["vision"](tiles), plain_tower(modules["vision"], tiles), atol=1e-5, rtol=1e-5
        )


def test_stochastic_depth_drops_whole_samples_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    dropped = StochasticDepth(0.25).train()(torch.ones(4000, 2, 3))
    assert all(sample.unique().numel() == 1 for sample in dropped[:50])
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.03)
