"""Variant ``ticodec`` against the published computation, written out here with nothing but
torch.nn.functional: encoder, quantisers, generator, discriminators, losses and their gradients."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.unit.models.codec.test_codec_losses import hertz_to_mel, mel_to_hertz
from vita_train.models.codec import Codec, Discriminators, build_codec, build_discriminators
from vita_train.models.codec.losses import (
    CONSISTENCY_WEIGHT,
    QUANTIZER_WEIGHT,
    adversarial_loss,
    consistency_loss,
    discriminator_loss,
    feature_matching_loss,
    mel_loss,
)
from vita_train.recipe.model import CodecSpec

#: Rates and kernels of 75 codes a second (TiCodec) and of 40 (VITA-1.5).
HOPS = {320: ((8, 5, 4, 2), (16, 11, 8, 4)), 600: ((8, 5, 5, 3), (16, 11, 11, 5))}
BOOKS = [(1, 1), (1, 4), (2, 2)]
CLOSE = {"atol": 1e-5, "rtol": 1e-5}

State = Mapping[str, Tensor]


def spec_of(hop: int, groups: int = 1, residuals: int = 1) -> CodecSpec:
    rates, kernels = HOPS[hop]
    return CodecSpec(
        variant="ticodec",
        hop_length=hop,
        upsample_rates=rates,
        upsample_kernels=kernels,
        channels=64,
        codebook_size=24,
        code_dim=32,
        code_groups=groups,
        code_residuals=residuals,
        num_global_tokens=4,
        global_dim=16,
        segment=4800,
    )


def codec_of(spec: CodecSpec) -> Codec:
    """An untrained codec whose every number matters: codes far apart, norms that are not 1."""
    torch.manual_seed(0)
    codec = build_codec(spec)
    with torch.no_grad():
        for name, tensor in itertools.chain(codec.named_parameters(), codec.named_buffers()):
            if name.endswith("codebook"):
                tensor.normal_(0, 0.1)
            elif "norm" in name and tensor.is_floating_point() and "parametr" not in name:
                tensor.uniform_(0.5, 1.5)
    return codec


def waves(batch: int = 2, samples: int = 4800) -> Tensor:
    torch.manual_seed(1)
    time = torch.arange(samples) / 24000
    pitch = torch.linspace(110, 220, batch)[:, None]
    tones = sum(torch.sin(2 * torch.pi * pitch * k * time) / k for k in range(1, 6))
    return 0.1 * tones + 0.02 * torch.randn(batch, samples)


def state_of(module: torch.nn.Module, prefix: str = "") -> State:
    """Its live tensors by name, so that gradients reach them."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name.removeprefix(prefix): value for name, value in tensors.items()}


def normed(state: State, name: str) -> Tensor:
    """The weight of a layer under weight norm: length times direction; of another, itself."""
    if f"{name}.weight" in state:
        return state[f"{name}.weight"]
    length = state[f"{name}.parametrizations.weight.original0"]
    direction = state[f"{name}.parametrizations.weight.original1"]
    return length * direction / direction.flatten(1).norm(dim=1).view(length.shape)


def conv(state: State, name: str, x: Tensor, **settings: int) -> Tensor:
    return F.conv1d(x, normed(state, name), state.get(f"{name}.bias"), **settings)


def block(state: State, name: str, x: Tensor, kernel: int) -> Tensor:
    for number, dilation in enumerate((1, 3, 5)):
        reach = (kernel - 1) // 2
        y = F.leaky_relu(x, 0.1)
        y = conv(state, f"{name}.dilated.{number}", y, padding=reach * dilation, dilation=dilation)
        x = x + conv(state, f"{name}.plain.{number}", F.leaky_relu(y, 0.1), padding=reach)
    return x


def plain_encoder(state: State, wave: Tensor, hop: int) -> tuple[Tensor, Tensor]:
    """Latents (B, T, D) and the voice's features."""
    x = conv(state, "encoder.inlet", wave[:, None], padding=3)
    voice = x
    for stage, (rate, kernel) in enumerate(reversed(list(zip(*HOPS[hop], strict=True)))):
        x = conv(
            state,
            f"encoder.down.{stage}",
            F.leaky_relu(x, 0.1),
            stride=rate,
            padding=(kernel - rate) // 2,
        )
        total = torch.zeros_like(x)
        for place, size in enumerate((11, 7, 3)):
            total = total + block(state, f"encoder.stages.{stage}.blocks.{place}", x, size)
            total = F.group_norm(
                total,
                max(x.shape[1] // 16, 1),
                state[f"encoder.stages.{stage}.norms.{place}.weight"],
                state[f"encoder.stages.{stage}.norms.{place}.bias"],
                1e-6,
            )
        x = total / 3
        if stage == 1:
            voice = x
    return conv(state, "encoder.outlet", F.leaky_relu(x, 0.01), padding=1).transpose(1, 2), voice


def plain_voice(state: State, features: Tensor, *, training: bool) -> Tensor:
    channels = features.shape[1]
    for number, (width_in, width) in enumerate(
        [(channels, channels // 2), (channels // 2,) * 2, (channels // 2, channels)]
    ):
        assert state[f"global_encoder.convs.{number}.weight"].shape == (width, width_in, 3)
        assert f"global_encoder.convs.{number}.bias" not in state
        features = F.leaky_relu(
            conv(state, f"global_encoder.convs.{number}", features, padding=1), 0.1
        )
    vector = F.linear(
        features.mean(2),
        state["global_encoder.project.weight"],
        state["global_encoder.project.bias"],
    )
    return F.batch_norm(
        F.leaky_relu(vector, 0.1),
        state["global_encoder.norm.running_mean"].clone(),
        state["global_encoder.norm.running_var"].clone(),
        state["global_encoder.norm.weight"],
        state["global_encoder.norm.bias"],
        training=training,
    )


def plain_quantizer(books: list[list[Tensor]], vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of the chosen codes with gradients straight through, codes (B, T, Q), and the loss of
    rounds of books over vectors (B, T, D)."""
    rest, total, codes, losses = vectors, torch.zeros_like(vectors), [], []
    for group in books:
        chosen = []
        for book, part in zip(group, rest.split(rest.shape[-1] // len(group), -1), strict=True):
            distance = (part[..., None, :] - book).square().sum(-1)
            codes.append(distance.argmin(-1))
            chosen.append(book[codes[-1]])
        joined = torch.cat(chosen, -1)
        losses.append(
            (joined - rest.detach()).square().mean()
            + 0.25 * (joined.detach() - rest).square().mean()
        )
        through = rest + (joined - rest).detach()
        rest, total = rest - through, total + through
    return total, torch.stack(codes, -1), torch.stack(losses).mean()


def books_of(state: State, groups: int, residuals: int) -> list[list[Tensor]]:
    if groups == residuals == 1:
        return [[state["quantizer.codebook"]]]
    return [
        [state[f"quantizer.books.{turn * groups + group}.codebook"] for group in range(groups)]
        for turn in range(residuals)
    ]


def plain_generator(state: State, vectors: Tensor, voice: Tensor, hop: int) -> Tensor:
    x = conv(state, "decoder.inlet", vectors.transpose(1, 2), padding=3)
    for stage, (rate, kernel) in enumerate(zip(*HOPS[hop], strict=True)):
        x = F.conv_transpose1d(
            F.leaky_relu(x, 0.1),
            normed(state, f"decoder.up.{stage}"),
            state[f"decoder.up.{stage}.bias"],
            stride=rate,
            padding=(kernel - rate) // 2,
        )
        parts = [
            block(state, f"decoder.stages.{stage}.blocks.{place}", x, size)
            for place, size in enumerate((3, 7, 11))
        ]
        x = sum(parts) / 3
        if x.shape[1] == voice.shape[1]:
            x = x + voice[:, :, None]
    return torch.tanh(conv(state, "decoder.outlet", F.leaky_relu(x, 0.1), padding=3))[:, 0]


def plain_codec(
    state: State, wave: Tensor, spec: CodecSpec, *, training: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Wave, codes (B, T, Q), global tokens, unquantised voice, and loss of the quantisers."""
    latents, features = plain_encoder(state, wave, spec.hop_length)
    vector = plain_voice(state, features, training=training)
    total, codes, loss = plain_quantizer(
        books_of(state, spec.code_groups, spec.code_residuals), latents
    )
    voices = [
        [state[f"global_encoder.quantizers.{i}.codebook"] for i in range(spec.num_global_tokens)]
    ]
    voice, tokens, of_voice = plain_quantizer(voices, vector)
    made = plain_generator(state, total, voice, spec.hop_length)
    return made, codes, tokens, vector, loss + of_voice


def plain_log_mel(wave: Tensor, n_fft: int) -> Tensor:
    hop = {1024: 240, 512: 120, 256: 60}[n_fft]
    margin, wave = (n_fft - hop) // 2, wave.float()
    spectrum = torch.stft(
        F.pad(wave[:, None], (margin, margin), mode="reflect")[:, 0],
        n_fft,
        hop,
        window=torch.hann_window(n_fft),
        center=False,
        return_complex=True,
    )
    magnitude = (spectrum.real**2 + spectrum.imag**2 + 1e-9).sqrt()
    bins = torch.arange(n_fft // 2 + 1, dtype=torch.float64) * 24000 / n_fft
    top = hertz_to_mel(12000)
    edges = [mel_to_hertz(top * place / 81) for place in range(82)]
    bank = torch.stack(
        [
            torch.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)).clamp(0)
            * (2 / (high - low))
            for low, centre, high in zip(edges, edges[1:], edges[2:], strict=False)
        ]
    )
    return (bank.float() @ magnitude).clamp(1e-5).log()


def plain_mel_loss(wave: Tensor, made: Tensor) -> Tensor:
    terms = [
        weight * (plain_log_mel(made, n_fft) - plain_log_mel(wave, n_fft)).abs().mean()
        for n_fft, weight in ((1024, 45.0), (512, 1.0), (256, 1.0))
    ]
    return torch.stack(terms).sum()


Verdict = tuple[Tensor, list[Tensor]]


def plain_period(state: State, wave: Tensor, period: int) -> Verdict:
    x = F.pad(wave[:, None], (0, -wave.shape[1] % period), mode="reflect")
    x = x.view(len(wave), 1, -1, period)
    features = []
    for layer in range(5):
        x = F.conv2d(
            x,
            normed(state, f"stack.convs.{layer}"),
            state[f"stack.convs.{layer}.bias"],
            stride=(3 if layer < 4 else 1, 1),
            padding=(2, 0),
        )
        x = F.leaky_relu(x, 0.1)
        features.append(x)
    x = F.conv2d(x, normed(state, "stack.convs.5"), state["stack.convs.5.bias"], padding=(1, 0))
    return x, [*features, x]


def plain_scale(state: State, wave: Tensor, scale: int) -> Verdict:
    x = wave[:, None]
    for _ in range(scale):
        x = F.avg_pool1d(x, 4, 2, padding=2)
    features = []
    groups = [1, 4, 2, 2, 2, 2, 1, 1]  # at an eighth of the published width
    for layer, (stride, padding) in enumerate(
        [(1, 7), (2, 20), (2, 20), (4, 20), (4, 20), (1, 20), (1, 2), (1, 1)]
    ):
        name = f"stack.convs.{layer}"
        if scale == 0:  # spectral norm
            raw = state[f"{name}.parametrizations.weight.original"]
            left = state[f"{name}.parametrizations.weight.0.left"]
            right = state[f"{name}.parametrizations.weight.0.right"]
            weight = raw / (left @ raw.flatten(1) @ right)
        else:
            weight = normed(state, name)
        x = F.conv1d(
            x, weight, state[f"{name}.bias"], stride=stride, padding=padding, groups=groups[layer]
        )
        x = x if layer == 7 else F.leaky_relu(x, 0.1)
        features.append(x)
    return x, features


def plain_stft(state: State, wave: Tensor, n_fft: int) -> Verdict:
    window = torch.hann_window(n_fft)
    frames = wave.unfold(1, n_fft, n_fft // 4) * window
    spectrum = torch.fft.rfft(frames) / window.square().sum().sqrt()
    x = torch.stack([spectrum.real, spectrum.imag], 1)
    features = []
    for layer, dilation in enumerate((1, 1, 2, 4, 1)):
        size = (dilation, 4) if layer < 4 else (1, 1)
        x = F.conv2d(
            x,
            normed(state, f"stack.convs.{layer}"),
            state[f"stack.convs.{layer}.bias"],
            stride=(1, 2 if 0 < layer < 4 else 1),
            padding=size,
            dilation=(dilation, 1),
        )
        x = F.leaky_relu(x, 0.2)
        features.append(x)
    x = F.conv2d(x, normed(state, "stack.convs.5"), state["stack.convs.5.bias"], padding=1)
    return x, features


def plain_verdicts(judges: Discriminators, wave: Tensor) -> list[Verdict]:
    states = [state_of(judge) for judge in judges.judges]
    return [
        *(plain_period(states[i], wave, period) for i, period in enumerate((2, 3, 5, 7, 11))),
        *(plain_scale(states[5 + scale], wave, scale) for scale in range(3)),
        *(
            plain_stft(states[8 + i], wave, n_fft)
            for i, n_fft in enumerate((1024, 2048, 512, 256, 128))
        ),
    ]


@pytest.mark.parametrize("books", BOOKS, ids=lambda pair: "x".join(map(str, pair)))
@pytest.mark.parametrize("hop", HOPS)
def test_codes_and_waves_are_the_published_ones(hop: int, books: tuple[int, int]) -> None:
    spec = spec_of(hop, *books)
    codec, wave = codec_of(spec).eval(), waves()
    with torch.no_grad():
        made, codes, tokens, *_ = plain_codec(state_of(codec), wave, spec, training=False)
    ids, voice = codec.encode(wave)
    assert torch.equal(ids if books != (1, 1) else ids[..., None], codes)
    assert torch.equal(voice, tokens)
    assert len(codes.unique()) > 2
    torch.testing.assert_close(codec.decode(ids, voice), made, **CLOSE)


@pytest.mark.parametrize("books", BOOKS, ids=lambda pair: "x".join(map(str, pair)))
@pytest.mark.parametrize("hop", HOPS)
def test_losses_and_gradients_are_the_published_ones(hop: int, books: tuple[int, int]) -> None:
    spec = spec_of(hop, *books)
    # Batch norm of few vectors that are much alike magnifies rounding: in float64, and of four,
    # because of two it is a sign whatever they are. Spectrograms are float32 in either.
    codec, wave = codec_of(spec).train().double(), waves(4).double()
    other = wave.flip(1)
    state = state_of(codec)
    made, _, _, vector, quantizer = plain_codec(state, wave, spec, training=True)
    second = plain_voice(state, plain_encoder(state, other, hop)[1], training=True).detach()
    cosine = (vector * second).sum(1) / (vector.norm(dim=1) * second.norm(dim=1))
    plain = plain_mel_loss(wave, made) + 10 * quantizer + 5 * (1 - cosine.mean())

    output = codec(wave)
    loss = (
        mel_loss(wave, output.wave, spec.sample_rate, variant=spec.variant)
        + QUANTIZER_WEIGHT * output.quantizer_loss
        + CONSISTENCY_WEIGHT * consistency_loss(output.global_vector, codec.global_vector(other))
    )
    torch.testing.assert_close(output.quantizer_loss, quantizer, **CLOSE)
    torch.testing.assert_close(loss, plain, **CLOSE)
    names, parameters = zip(*codec.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    wanted = torch.autograd.grad(plain, parameters, allow_unused=True)
    for name, ours, theirs in zip(names, found, wanted, strict=True):
        assert (ours is None) == (theirs is None), name
        if theirs is not None:
            bound = 1e-4 * theirs.abs().max().item() + 1e-7
            torch.testing.assert_close(ours, theirs, atol=bound, rtol=1e-4, msg=name)


@pytest.mark.parametrize("hop", HOPS)
def test_the_game_is_the_published_one(hop: int) -> None:
    spec = spec_of(hop)
    torch.manual_seed(0)
    judges = build_discriminators(spec).eval()
    real, made = waves(), waves().flip(1)
    of_real, of_made = judges(real), judges(made)
    plain_real, plain_made = plain_verdicts(judges, real), plain_verdicts(judges, made)
    assert len(of_made) == 5 + 3 + 5
    for (scores, features), (theirs, activations) in zip(of_made, plain_made, strict=True):
        torch.testing.assert_close(scores, theirs.flatten(1), **CLOSE)
        assert len(features) == len(activations)
    torch.testing.assert_close(
        discriminator_loss(of_real, of_made),
        sum(
            (1 - r).square().mean() + m.square().mean()
            for (r, _), (m, _) in zip(plain_real, plain_made, strict=True)
        ),
        **CLOSE,
    )
    torch.testing.assert_close(
        adversarial_loss(of_made), sum((1 - m).square().mean() for m, _ in plain_made), **CLOSE
    )
    torch.testing.assert_close(
        feature_matching_loss(of_real, of_made),
        2
        * sum(
            (r - m).abs().mean()
            for (_, reals), (_, mades) in zip(plain_real, plain_made, strict=True)
            for r, m in zip(reals, mades, strict=True)
        ),
        **CLOSE,
    )


def test_spectral_norm_follows_the_largest_singular_value() -> None:
    torch.manual_seed(0)
    judges = build_discriminators(spec_of(320)).train()
    conv = judges.judges[5].stack.convs[3]
    for _ in range(60):
        _ = conv.weight
    assert torch.linalg.matrix_norm(conv.weight.flatten(1), 2).item() == pytest.approx(1, abs=5e-2)
    fixed = judges.eval().judges[5].stack.convs[3].weight
    assert torch.equal(fixed, conv.weight)  # judging alone moves nothing


def test_a_single_wave_takes_the_running_statistics_and_leaves_them() -> None:
    codec = codec_of(spec_of(600)).train()
    norm = codec.global_encoder.norm
    before = norm.running_mean.clone()
    alone = codec.global_vector(waves(1))
    assert torch.equal(norm.running_mean, before)
    assert torch.equal(alone, codec.eval().global_vector(waves(1)))
    codec.train().global_vector(waves(2))
    assert not torch.equal(norm.running_mean, before)


def test_judges_learn_in_bfloat16_too() -> None:
    judges = build_discriminators(spec_of(320)).train()
    for parameter in judges.parameters():
        parameter.data = parameter.data.bfloat16()
    real, made = judges(waves().bfloat16()), judges(waves().flip(1).bfloat16())
    loss = discriminator_loss(real, made)
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad is not None for parameter in judges.parameters())


def test_published_sizes() -> None:
    """On the meta device: 512 wide, eight voice codes of 16, and 2 x 2 codebooks of half width."""
    with torch.device("meta"):
        codec = build_codec(CodecSpec(variant="ticodec", code_groups=2, code_residuals=2)).eval()
        codes, _ = codec.encode(torch.zeros(1, 24000))
    assert codes.shape == (1, 40, 4)
    assert [conv.weight.shape for conv in codec.global_encoder.convs] == [
        (64, 128, 3),
        (64, 64, 3),
        (128, 64, 3),
    ]
    assert [book.codebook.shape for book in codec.quantizer.books] == [(1024, 256)] * 4


def test_the_variants_are_different_functions() -> None:
    """Equal weights under both: what the recipe names decides what they compute."""
    spec = spec_of(320)
    codec, wave = codec_of(spec).eval(), waves()
    other = codec_of(spec.model_copy(update={"variant": "revised"})).eval()
    shared = {
        name: tensor
        for name, tensor in codec.state_dict().items()
        if name in other.state_dict() and other.state_dict()[name].shape == tensor.shape
    }
    other.load_state_dict(shared, strict=False)
    codes = torch.zeros(1, 4, dtype=torch.long)
    voice = torch.ones(1, 4, dtype=torch.long)
    assert (codec.decode(codes, voice) - other.decode(codes, voice)).abs().max() > 1e-4
    assert math.isfinite(codec(wave).wave.sum().item())
