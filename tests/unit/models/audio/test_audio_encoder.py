import math

import pytest
import torch
from torch import Tensor

from vita_train.models.audio.attention import (
    RelativeAttention,
    chunk_mask,
    random_chunk_mask,
    sinusoids,
)
from vita_train.models.audio.encoder import AudioEncoder, EncoderBlock, encoder_length
from vita_train.recipe.audio import AudioEncoderSpec

SMALL = {
    "width": 16,
    "num_layers": 2,
    "num_heads": 2,
    "intermediate_size": 24,
    "max_positions": 100,
}


def encoder(**changes: object) -> AudioEncoder:
    torch.manual_seed(0)
    return AudioEncoder(AudioEncoderSpec.model_validate(SMALL | changes)).eval()


def plain_attention(
    layer: RelativeAttention,
    frames: Tensor,
    places: dict[tuple[int, int], Tensor],
    seen: Tensor | None = None,
) -> Tensor:
    """The attention of one clip, one query, key and head at a time. ``places``: position vector of
    (query, key); ``seen`` (T, T): which keys a query sees, all if not given."""
    time, width = frames.shape
    size = width // layer.num_heads
    q, k, v = layer.linear_q(frames), layer.linear_k(frames), layer.linear_v(frames)
    rows = []
    for i in range(time):
        heads = []
        for h in range(layer.num_heads):
            part = slice(h * size, (h + 1) * size)
            scores = []
            keys = [j for j in range(time) if seen is None or seen[i, j]]
            for j in keys:
                place = (layer.linear_pos.weight @ places[i, j])[part]
                content = torch.dot(q[i, part] + layer.pos_bias_u[h], k[j, part])
                position = torch.dot(q[i, part] + layer.pos_bias_v[h], place)
                scores.append((content + position) / math.sqrt(size))
            weights = torch.stack(scores).softmax(0)
            heads.append(sum(weight * v[j, part] for j, weight in zip(keys, weights, strict=True)))
        rows.append(torch.cat(heads))
    return layer.linear_out(torch.stack(rows))


def plain_place(position: int, width: int) -> Tensor:
    """The position vector of one frame (Vaswani et al. 2017, section 3.5)."""
    rates = [10000 ** (-2 * c / width) for c in range(width // 2)]
    return torch.tensor([f(position * rate) for rate in rates for f in (math.sin, math.cos)])


def plain_norm(layer: torch.nn.LayerNorm, frames: Tensor) -> Tensor:
    spread = (frames.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    return (frames - frames.mean(-1, keepdim=True)) / spread * layer.weight + layer.bias


def plain_convolution(maps: Tensor, layer: torch.nn.Conv2d) -> Tensor:
    """A 3 x 3 convolution of stride 2 with ReLU, one place at a time: (C, T, F) to (D, (T-1)//2,
    (F-1)//2)."""
    rows = [
        [
            torch.einsum("cij,dcij->d", maps[:, 2 * t : 2 * t + 3, 2 * f : 2 * f + 3], layer.weight)
            + layer.bias
            for f in range((maps.shape[2] - 1) // 2)
        ]
        for t in range((maps.shape[1] - 1) // 2)
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=1).clamp(min=0)


def plain_encoder(model: AudioEncoder, fbank: Tensor, seen: Tensor | None = None) -> Tensor:
    """The encoder of one clip (T, bins) in VITA-1.5's form, written out."""
    features = (fbank - model.global_cmvn.mean) * model.global_cmvn.istd
    maps = plain_convolution(
        plain_convolution(features[None], model.subsampling.conv[0]), model.subsampling.conv[2]
    )
    frames = torch.stack([maps[:, t].flatten() for t in range(maps.shape[1])])  # channel by channel
    frames = frames @ model.subsampling.out.weight.T + model.subsampling.out.bias
    frames = plain_norm(
        model.embed[1], frames @ model.embed[0].weight.T + model.embed[0].bias
    ).clamp(min=0)
    time, width = frames.shape
    frames = frames * width**0.5  # positions are not added
    places = {(i, j): plain_place(j, width) for i in range(time) for j in range(time)}
    for block in model.encoders:
        assert isinstance(block, EncoderBlock)
        frames = frames + plain_attention(
            block.self_attn, plain_norm(block.norm1, frames), places, seen
        )
        first, second = block.feed_forward["w_1"], block.feed_forward["w_2"]
        inner = (plain_norm(block.norm2, frames) @ first.weight.T + first.bias).clamp(min=0)
        frames = frames + inner @ second.weight.T + second.bias
    return plain_norm(model.after_norm, frames)


@torch.no_grad()
@pytest.mark.parametrize(("chunk_size", "left_chunks"), [(0, -1), (3, 1)])
def test_the_encoder_equals_its_plain_derivation(chunk_size: int, left_chunks: int) -> None:
    model = encoder(chunk_size=chunk_size, left_chunks=left_chunks, conv_channels=3)
    model.set_cmvn(torch.randn(80), torch.rand(80) + 0.5)
    for layer in model.modules():
        if isinstance(layer, torch.nn.LayerNorm):
            layer.weight.add_(torch.randn_like(layer.weight) * 0.1)
            layer.bias.add_(torch.randn_like(layer.bias) * 0.1)
    fbank = torch.randn(1, 42, 80)
    frames, lengths = model(fbank, torch.tensor([42]))
    time = int(lengths)
    seen = None
    if chunk_size:
        seen = torch.tensor(
            [
                [0 <= i // chunk_size - j // chunk_size <= left_chunks for j in range(time)]
                for i in range(time)
            ]
        )
    torch.testing.assert_close(
        frames[0], plain_encoder(model, fbank[0], seen), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("shift", [False, True])
def test_attention_equals_its_plain_derivation(shift: bool) -> None:
    torch.manual_seed(1)
    time, width = 5, 8
    layer = RelativeAttention(width, 2, dropout=0.0, shift=shift)
    frames = torch.randn(1, time, width)
    index = torch.arange(time - 1, -time, -1) if shift else torch.arange(time)
    fused = layer(frames, sinusoids(index, width), torch.ones(1, 1, time, dtype=torch.bool))
    places = {
        (i, j): plain_place(i - j if shift else j, width) for i in range(time) for j in range(time)
    }
    torch.testing.assert_close(
        fused[0], plain_attention(layer, frames[0], places), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("changes", [{}, {"conv_kernel": 5, "relative_shift": True}])
def test_padding_never_matters_to_the_last_bit(changes: dict[str, object]) -> None:
    model = encoder(**changes)
    lengths = torch.tensor([61, 40, 7])
    fbank = torch.randn(3, 61, 80)
    outputs = []
    for filler in (0.0, 1e4, float("nan"), float("inf")):
        padded = fbank.clone()
        for clip, length in zip(padded, lengths, strict=True):
            clip[length:] = filler
        frames, frame_lengths = model(padded, lengths)
        outputs.append(torch.cat([f[:n] for f, n in zip(frames, frame_lengths, strict=True)]))
    assert outputs[0].isfinite().all()
    assert all(torch.equal(outputs[0], other) for other in outputs[1:])


@pytest.mark.parametrize("changes", [{}, {"conv_kernel": 5, "relative_shift": True}])
def test_a_clip_alone_equals_the_clip_in_a_batch(changes: dict[str, object]) -> None:
    model = encoder(**changes)
    fbank, lengths = torch.randn(2, 61, 80), torch.tensor([61, 33])
    together, frame_lengths = model(fbank, lengths)
    alone, _ = model(fbank[1:, :33], lengths[1:])
    torch.testing.assert_close(together[1, : frame_lengths[1]], alone[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("frames", "expected"), [(6, 0), (7, 1), (98, 23), (998, 248)])
def test_lengths_follow_the_formula(frames: int, expected: int) -> None:
    assert int(encoder_length(torch.tensor(frames))) == expected
    if expected:
        hidden, lengths = encoder(max_positions=300)(
            torch.randn(1, frames, 80), torch.tensor([frames])
        )
        assert hidden.shape[1] == int(lengths) == expected


def test_cmvn_statistics_are_applied_and_stored() -> None:
    model = encoder()
    fbank = torch.randn(1, 30, 80)
    expected, _ = model(fbank, torch.tensor([30]))
    model.set_cmvn(torch.full((80,), 2.0), torch.full((80,), 0.25))
    shifted, _ = model(fbank * 4 + 2, torch.tensor([30]))
    torch.testing.assert_close(shifted, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(model.state_dict()["global_cmvn.istd"], torch.full((80,), 0.25))


def test_chunks_are_drawn_while_training_only() -> None:
    model = encoder(dropout=0.0)
    fbank, lengths = torch.randn(1, 200, 80), torch.tensor([200])
    full, _ = model(fbank, lengths)
    assert torch.equal(full, model(fbank, lengths)[0])
    torch.manual_seed(0)
    drawn = [model.train()(fbank, lengths)[0] for _ in range(4)]
    assert any(not torch.allclose(full, other, atol=1e-4) for other in drawn)
    still = encoder(dropout=0.0, dynamic_chunks=False)
    assert torch.equal(still(fbank, lengths)[0], still.train()(fbank, lengths)[0])


def test_chunk_masks() -> None:
    mask = chunk_mask(6, 2, 1, torch.device("cpu"))
    assert [row.nonzero().flatten().tolist() for row in mask] == [
        [0, 1],
        [0, 1],
        [0, 1, 2, 3],
        [0, 1, 2, 3],
        [2, 3, 4, 5],
        [2, 3, 4, 5],
    ]
    assert random_chunk_mask(2, torch.device("cpu")) is None
    for seed in range(30):
        torch.manual_seed(seed)
        drawn = random_chunk_mask(40, torch.device("cpu"))
        assert drawn is None or drawn.diagonal().all()


def test_drawn_chunks_never_see_every_chunk_there_can_be() -> None:
    """As published the number of left chunks is drawn below the largest there is, so that the last
    frame of a chunked clip never sees the first chunk; every number below it occurs."""
    time, seen = 12, set()
    for seed in range(300):
        torch.manual_seed(seed)
        mask = random_chunk_mask(time, torch.device("cpu"))
        if mask is None:
            continue
        chunk = int(mask[0].sum())
        first = int(mask[-1].nonzero()[0])
        left = (time - 1) // chunk - first // chunk
        assert 0 <= left < (time - 1) // chunk
        seen.add((chunk, left))
    assert seen == {(c, left) for c in range(2, 8) for left in range((time - 1) // c)}


def test_a_longer_clip_is_encoded_in_windows() -> None:
    model = encoder(max_positions=25)
    fbank = torch.randn(2, 260, 80)
    frames, lengths = model(fbank, torch.tensor([260, 150]))
    assert (frames.shape[1], lengths.tolist()) == (64, [64, 36])
    for first in (0, 25, 50):  # a window is what a clip of its feature frames would give
        clip = fbank[:1, 4 * first : 4 * first + 4 * 25 + 3]
        alone, (length,) = model(clip, torch.tensor([clip.shape[1]]))
        torch.testing.assert_close(
            frames[0, first : first + length], alone[0], atol=1e-5, rtol=1e-5
        )
    alone, _ = model(fbank[1:, :150], lengths.new_tensor([150]))
    torch.testing.assert_close(frames[1, :36], alone[0], atol=1e-5, rtol=1e-5)
    short, _ = model(fbank[:, :103], torch.tensor([103, 103]))
    assert torch.equal(
        short, encoder(max_positions=5000)(fbank[:, :103], torch.tensor([103, 103]))[0]
    )


def test_fixed_chunks_are_chosen_by_the_settings() -> None:
    fbank, lengths = torch.randn(1, 103, 80), torch.tensor([103])
    changed = fbank.clone()
    changed[:, 4 * 15 + 3 :] += 1  # heard by frames 15 and later alone
    chunked = encoder(chunk_size=5, left_chunks=1, dropout=0.0)
    first, second = chunked(fbank, lengths)[0], chunked(changed, lengths)[0]
    assert torch.equal(first[:, :15], second[:, :15])
    assert not torch.equal(first[:, 15:], second[:, 15:])
    full = encoder(dropout=0.0)
    assert not torch.equal(full(fbank, lengths)[0][:, :15], full(changed, lengths)[0][:, :15])
    assert torch.equal(chunked(fbank, lengths)[0], first)
    torch.manual_seed(0)
    assert any(
        not torch.allclose(first, chunked.train()(fbank, lengths)[0], atol=1e-4) for _ in range(3)
    )
    still = encoder(chunk_size=5, left_chunks=1, dropout=0.0, dynamic_chunks=False)
    assert torch.equal(still.train()(fbank, lengths)[0], first)


def test_attention_dropout_has_a_setting_of_its_own() -> None:
    fbank, lengths = torch.randn(1, 60, 80), torch.tensor([60])
    model = encoder(dropout=0.0, attention_dropout=0.5, dynamic_chunks=False)
    assert not torch.equal(model.train()(fbank, lengths)[0], model.eval()(fbank, lengths)[0])
    model = encoder(dropout=0.5, attention_dropout=0.0)
    assert model.encoders[0].self_attn.dropout.p == 0.0
    assert encoder(dropout=0.5).encoders[0].self_attn.dropout.p == 0.5


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"width": 18, "num_heads": 4}, "even multiple"),
        ({"conv_kernel": 4}, "conv_kernel 4 is even"),
    ],
)
def test_shapes_that_cannot_be_built_are_refused(changes: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        AudioEncoderSpec.model_validate(SMALL | changes)
