import math

import pytest
import torch
from torch import Tensor, nn

from vita_train.errors import DataError
from vita_train.models.audio_adapter import AudioAdapter
from vita_train.models.audio_attention import RelativeAttention, chunk_mask, random_chunk_mask, sinusoids
from vita_train.models.audio_encoder import AudioEncoder, encoder_length
from vita_train.recipe.model import AudioEncoderSpec, ModelSpec

SMALL = {"width": 16, "num_layers": 2, "num_heads": 2, "intermediate_size": 24, "max_positions": 100}


def encoder(**changes: object) -> AudioEncoder:
    torch.manual_seed(0)
    return AudioEncoder(AudioEncoderSpec.model_validate(SMALL | changes)).eval()


def plain_attention(layer: RelativeAttention, frames: Tensor, places: dict[tuple[int, int], Tensor]) -> Tensor:
    """The attention of one clip, one query, key and head at a time. ``places``: position vector of (query, key)."""
    time, width = frames.shape
    size = width // layer.num_heads
    q, k, v = layer.linear_q(frames), layer.linear_k(frames), layer.linear_v(frames)
    rows = []
    for i in range(time):
        heads = []
        for h in range(layer.num_heads):
            part = slice(h * size, (h + 1) * size)
            scores = []
            for j in range(time):
                place = (layer.linear_pos.weight @ places[i, j])[part]
                content = torch.dot(q[i, part] + layer.pos_bias_u[h], k[j, part])
                position = torch.dot(q[i, part] + layer.pos_bias_v[h], place)
                scores.append((content + position) / math.sqrt(size))
            weights = torch.stack(scores).softmax(0)
            heads.append(sum(weight * v[j, part] for j, weight in enumerate(weights)))
        rows.append(torch.cat(heads))
    return layer.linear_out(torch.stack(rows))


@pytest.mark.parametrize("shift", [False, True])
def test_attention_equals_its_plain_derivation(shift: bool) -> None:
    torch.manual_seed(1)
    time, width = 5, 8
    layer = RelativeAttention(width, 2, dropout=0.0, shift=shift)
    frames = torch.randn(1, time, width)
    index = torch.arange(time - 1, -time, -1) if shift else torch.arange(time)
    fused = layer(frames, sinusoids(index, width), torch.ones(1, 1, time, dtype=torch.bool))
    places = {}
    for i in range(time):
        for j in range(time):
            where = float(i - j if shift else j)
            rates = [10000 ** (-2 * c / width) for c in range(width // 2)]
            places[i, j] = torch.tensor([f(where * rate) for rate in rates for f in (math.sin, math.cos)])
    torch.testing.assert_close(fused[0], plain_attention(layer, frames[0], places), atol=1e-5, rtol=1e-5)


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
    torch.testing.assert_close(together[1, :frame_lengths[1]], alone[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("frames", "expected"), [(6, 0), (7, 1), (98, 23), (998, 248)])
def test_lengths_follow_the_formula(frames: int, expected: int) -> None:
    assert int(encoder_length(torch.tensor(frames))) == expected
    if expected:
        hidden, lengths = encoder(max_positions=300)(torch.randn(1, frames, 80), torch.tensor([frames]))
        assert hidden.shape[1] == int(lengths) == expected


def test_cmvn_statistics_are_applied_and_stored(small_spec: ModelSpec) -> None:
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
        [0, 1], [0, 1], [0, 1, 2, 3], [0, 1, 2, 3], [2, 3, 4, 5], [2, 3, 4, 5]]
    assert random_chunk_mask(2, torch.device("cpu")) is None
    for seed in range(30):
        torch.manual_seed(seed)
        drawn = random_chunk_mask(40, torch.device("cpu"))
        assert drawn is None or drawn.diagonal().all()


def test_a_clip_beyond_the_position_table_is_refused() -> None:
    with pytest.raises(DataError, match="125 positions, the encoder has 100"):
        encoder()(torch.zeros(1, 503, 80), torch.tensor([503]))


def test_the_adapter_halves_lengths_and_ignores_padding(small_spec: ModelSpec) -> None:
    torch.manual_seed(0)
    adapter = AudioAdapter(small_spec)
    frames, lengths = torch.randn(3, 9, 16), torch.tensor([9, 4, 1])
    hidden, counts = adapter(frames, lengths)
    assert counts.tolist() == [5, 2, 1]
    for k, length in enumerate(lengths.tolist()):
        alone, _ = adapter(frames[k:k + 1, :length], lengths[k:k + 1])
        torch.testing.assert_close(hidden[k, :counts[k]], alone[0], atol=1e-6, rtol=1e-5)
    frames[1, 4:] = float("nan")
    assert torch.equal(adapter(frames, lengths)[0][1, :2], hidden[1, :2])


def test_the_adapter_equals_windows_padded_on_the_right(small_spec: ModelSpec) -> None:
    adapter = AudioAdapter(small_spec)
    frames = torch.randn(1, 6, 16)
    hidden, _ = adapter(frames, torch.tensor([6]))
    padded = nn.functional.pad(frames[0], (0, 0, 0, 4))
    for t in range(3):
        window = torch.einsum("tc,oct->o", padded[2 * t:2 * t + 5], adapter.conv.weight) + adapter.conv.bias
        normed = (window - window.mean()) / (window.var(unbiased=False) + 1e-3).sqrt()
        expected = adapter.project(nn.functional.gelu(normed * adapter.norm.weight + adapter.norm.bias))
        torch.testing.assert_close(hidden[0, t], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("changes", "said"), [({"width": 18, "num_heads": 4}, "even multiple"),
                                               ({"conv_kernel": 4}, "conv_kernel 4 is even")])
def test_shapes_that_cannot_be_built_are_refused(changes: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        AudioEncoderSpec.model_validate(SMALL | changes)
