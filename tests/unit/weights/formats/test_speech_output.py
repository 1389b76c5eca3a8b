"""VITA's ``vita_tts_ckpt``: the public names written down by hand, read and written bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.errors import raises_code
from tests.helpers.foreign import NAMES, build, imported, plan
from tests.unit.models.codec.test_ticodec import spec_of
from vita_train.errors import CheckpointError
from vita_train.models.build import build_modules
from vita_train.recipe.model import ModelSpec, SpeechDecoderSpec
from vita_train.recipe.schema import Recipe
from vita_train.weights.compare import difference
from vita_train.weights.formats.importing import write_import
from vita_train.weights.formats.source import open_source
from vita_train.weights.formats.vita_export import export_vita

WIDTHS = (64, 32, 16, 8, 4)
SPEECH = ("codec", "speech_decoder")
VOICE = [3, 0, 7, 23]


def speech_spec(small: ModelSpec, groups: int = 1, residuals: int = 1) -> ModelSpec:
    decoder = SpeechDecoderSpec(
        width=16,
        nar_layers=1,
        ar_layers=2,
        num_heads=2,
        intermediate_size=24,
        text_norm=False,
        head_bias=True,
    )
    return small.model_copy(
        update={"codec": spec_of(600, groups, residuals), "speech_decoder": decoder}
    )


def convolution(name: str, *shape: int, turned: bool = False) -> dict[str, tuple[int, ...]]:
    """A convolution under weight norm: length and direction of each row of the weight."""
    bias = shape[1] if turned else shape[0]
    return {
        f"{name}.weight_g": (shape[0], 1, 1),
        f"{name}.weight_v": shape,
        f"{name}.bias": (bias,),
    }


def residual(name: str, width: int, kernel: int) -> dict[str, tuple[int, ...]]:
    return {
        key: shape
        for convs in ("convs1", "convs2")
        for place in range(3)
        for key, shape in convolution(f"{name}.{convs}.{place}", width, width, kernel).items()
    }


def codec_shapes(groups: int, residuals: int) -> dict[str, dict[str, tuple[int, ...]]]:
    """The public networks' tensors, by dictionary and name."""
    kernels = (16, 11, 11, 5)
    encoder = convolution("conv_pre", 4, 1, 7)
    generator = convolution("conv_pre", 64, 32, 7)
    for stage in range(4):
        below, above = WIDTHS[4 - stage], WIDTHS[3 - stage]
        encoder |= convolution(f"ups.{stage}", above, below, kernels[3 - stage])
        for place, kernel in enumerate((11, 7, 3)):
            encoder |= residual(f"resblocks.{3 * stage + place}", above, kernel)
            encoder |= {
                f"normalize.{3 * stage + place}.{part}": (above,) for part in ("weight", "bias")
            }
        into, out = WIDTHS[stage], WIDTHS[stage + 1]
        generator |= convolution(f"ups.{stage}", into, out, kernels[stage], turned=True)
        for place, kernel in enumerate((3, 7, 11)):
            generator |= residual(f"resblocks.{3 * stage + place}", out, kernel)
    generator |= convolution("conv_post", 1, 4, 7)
    voice = "GlobalTokenEncoder"
    encoder |= {
        "conv_post.weight": (32, 64, 3),
        "conv_post.bias": (32,),
        "linear.0.weight": (16, 16),
        "linear.0.bias": (16,),
        f"{voice}.conv.0.weight": (8, 16, 3),
        f"{voice}.conv.2.weight": (8, 8, 3),
        f"{voice}.conv.4.weight": (16, 8, 3),
        f"{voice}.fn.0.weight": (16, 16),
        **{f"{voice}.fn.0.bias": (16,)},
        **{
            f"{voice}.fn.2.{part}": (16,)
            for part in ("weight", "bias", "running_mean", "running_var")
        },
        f"{voice}.fn.2.num_batches_tracked": (),
    }
    quantizer = {
        f"quantizer_modules{turn + 1 if turn else ''}.{group}.embedding.weight": (24, 32 // groups)
        for turn in range(residuals)
        for group in range(groups)
    } | {f"quantizer_modules_globaltokens.{k}.embedding.weight": (24, 4) for k in range(4)}
    return {"generator": generator, "quantizer": quantizer, "encoder": encoder}


def decoder_shapes(*further: str) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "embedding.weight": (28, 16),
        "norm.weight": (16,),
        "out_fnn.weight": (28, 16),
        "out_fnn.bias": (28,),
    }
    for layer in ("layers_pre_nn.0", "layers.0", "layers.1", *further):
        for letter in "qkvo":
            shapes[f"{layer}.self_attn.{letter}_proj.weight"] = (16, 16)
        for part, shape in (("gate", (24, 16)), ("up", (24, 16)), ("down", (16, 24))):
            shapes[f"{layer}.mlp.{part}_proj.weight"] = shape
        shapes[f"{layer}.input_layernorm.weight"] = (16,)
        shapes[f"{layer}.post_attention_layernorm.weight"] = (16,)
    return shapes


def drawn(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    return {
        name: torch.randn(shape) if shape else torch.tensor(5) for name, shape in shapes.items()
    }


def codec_settings(groups: int = 1, residuals: int = 1) -> dict[str, object]:
    return {
        "resblock": "1",
        "upsample_rates": [8, 5, 5, 3],
        "upsample_kernel_sizes": [16, 11, 11, 5],
        "upsample_initial_channel": 64,
        "resblock_kernel_sizes": [3, 7, 11],
        "resblock_dilation_sizes": [[1, 3, 5]] * 3,
        "sampling_rate": 24000,
        "n_codes": 24,
        "n_code_groups": groups,
        "residul_layer": residuals,
        "global_code_num": 4,
        "global_feature_conv": [16, 8, 16, 3, 1],
        "codebook_loss_lambda": 1.0,
        "commitment_loss_lambda": 0.25,
        "segment_size": 4800,
        "global_tokens": VOICE,
    }


def decoder_settings() -> list[Any]:
    arguments = {
        "idim": 16,
        "odim": 24,
        "transformer_attention_dim": 16,
        "transformer_linear_units": 24,
        "transformer_num_blocks": 2,
        "transformer_attention_heads": 2,
        "transformer_dropout_rate": 0.0,
        "encoder_output_dim": 16,
        "encoder_criterion": "ce",
        "kv_cache_prefix_finetune": 0,
    }
    return [16, 24, arguments]


def write_release(folder: Path, groups: int = 1, residuals: int = 1) -> dict[str, Tensor]:
    """Write both folders; return every tensor by folder and name."""
    codec = {name: drawn(shapes) for name, shapes in codec_shapes(groups, residuals).items()}
    codec["encoder"]["GlobalTokenEncoder.fn.2.running_var"].abs_()
    decoder = drawn(decoder_shapes())
    for name in ("codec", "decoder"):
        (folder / name).mkdir(parents=True)
    torch.save(codec, folder / "codec" / "final.pt")
    torch.save({"model": decoder}, folder / "decoder" / "final.pt")
    (folder / "codec" / "model.json").write_text(json.dumps(codec_settings(groups, residuals)))
    (folder / "decoder" / "model.json").write_text(json.dumps(decoder_settings()))
    return {
        f"codec/{group}.{key}": t for group, found in codec.items() for key, t in found.items()
    } | {f"decoder/{key}": tensor for key, tensor in decoder.items()}


@pytest.mark.parametrize(("groups", "residuals"), [(1, 1), (1, 4), (2, 2)])
def test_every_tensor_is_imported_and_none_twice(
    small_spec: ModelSpec, tmp_path: Path, groups: int, residuals: int
) -> None:
    write_release(tmp_path / "tts", groups, residuals)
    spec = speech_spec(small_spec, groups, residuals)
    summary = write_import(plan(tmp_path / "tts", spec), tmp_path / "out")
    assert list(summary["modules"]) == list(SPEECH)
    ledger = json.loads((tmp_path / "out" / "ledger.json").read_text())
    left = [row["theirs"] for row in ledger["rows"] if row["status"] == "left out"]
    assert left == ["codec/encoder.linear.0.weight", "codec/encoder.linear.0.bias"]
    assert "VITA" in summary["terms"]


def test_a_whole_release_goes_in_and_comes_out_bit_for_bit(
    small_spec: ModelSpec, recipe: Recipe, corpus: Path, tmp_path: Path
) -> None:
    spec = speech_spec(small_spec)
    started = recipe.model_copy(
        update={"model": spec.model_copy(update={"dtype": "bfloat16"}), "weights": {}}
    )
    export_vita(build(spec), started, corpus, tmp_path / "release")
    expected = write_release(tmp_path / "release" / "vita_tts_ckpt")
    (tmp_path / "release" / "export.json").unlink()
    summary = write_import(plan(tmp_path / "release", spec), tmp_path / "in")
    assert list(summary["modules"]) == [*NAMES, *SPEECH]

    modules = build_modules(spec, NAMES, dtype=torch.bfloat16, seed=8)
    modules.update(dict(build_modules(spec, SPEECH, seed=8).items()))
    from vita_train.weights.load import load_modules

    load_modules(
        modules,
        {
            name: tuple(tmp_path / "in" / file for file in entry["files"])
            for name, entry in summary["modules"].items()
        },
    )
    assert modules["speech_decoder"].voice.tolist() == VOICE
    again = started.model_copy(update={"weights": {"codec": str(tmp_path / "in")}})
    export_vita(modules, again, corpus, tmp_path / "out")
    written = open_source(tmp_path / "out").tensors
    for name, tensor in expected.items():
        assert torch.equal(written[name].load(), tensor), name
        assert written[name].load().dtype == tensor.dtype
    assert {name for name in written if "/" in name} == {*expected, "decoder/global_tokens"}
    assert json.loads(
        (tmp_path / "out" / "vita_tts_ckpt" / "codec" / "model.json").read_text()
    ) == (codec_settings())
    # The main weights are the very same too.
    first = open_source(tmp_path / "release").tensors
    for name in (name for name in first if "/" not in name):
        assert torch.equal(written[name].load(), first[name].load()), name


PREFIX_LAYERS = ("layers_prefix.0", "layers_prefix.1")


def prefixed(small_spec: ModelSpec) -> ModelSpec:
    spec = speech_spec(small_spec)
    decoder = spec.speech_decoder.model_copy(update={"prefix": True})
    return spec.model_copy(update={"speech_decoder": decoder})


def test_a_prefix_goes_in_and_comes_out_bit_for_bit(
    small_spec: ModelSpec, recipe: Recipe, corpus: Path, tmp_path: Path
) -> None:
    write_release(tmp_path / "tts")
    shapes, settings = decoder_shapes(*PREFIX_LAYERS), decoder_settings()
    tensors = drawn(shapes)
    torch.save(tensors, tmp_path / "tts" / "decoder" / "final.pt")
    plain = plan(tmp_path / "tts", speech_spec(small_spec)).report
    assert plain.faults or plain.problems
    settings[-1]["kv_cache_prefix_finetune"] = 1
    (tmp_path / "tts" / "decoder" / "model.json").write_text(json.dumps(settings))
    problems = plan(tmp_path / "tts", speech_spec(small_spec)).report.problems
    assert any("--set model.speech_decoder.prefix=true" in problem for problem in problems)

    spec = prefixed(small_spec)
    found = imported(tmp_path / "tts", spec, tmp_path / "in")
    assert found["speech_decoder"].has_prefix
    modules = build(spec, names=(*NAMES, *SPEECH))
    modules.update(dict(found.items()))
    export_vita(modules, recipe.model_copy(update={"model": spec}), corpus, tmp_path / "out")
    written = torch.load(tmp_path / "out" / "vita_tts_ckpt" / "decoder" / "final.pt")
    assert {*written} == {*tensors}
    assert all(torch.equal(written[name], tensor) for name, tensor in tensors.items())


def test_a_decoder_whose_prefix_was_never_trained_is_left_out_with_the_reason(
    small_spec: ModelSpec, recipe: Recipe, corpus: Path, tmp_path: Path
) -> None:
    spec = prefixed(small_spec)
    modules = build(spec, names=(*NAMES, *SPEECH))
    export_vita(modules, recipe.model_copy(update={"model": spec}), corpus, tmp_path / "out")
    summary = json.loads((tmp_path / "out" / "export.json").read_text())
    assert summary["left_out"] == ["speech_decoder"]
    assert "prefix" in summary["reasons"]["speech_decoder"]


def test_what_contradicts_the_recipe_is_told_with_what_would_agree(
    small_spec: ModelSpec, tmp_path: Path
) -> None:
    write_release(tmp_path)
    spec = speech_spec(small_spec)
    decoder = spec.speech_decoder.model_copy(update={"text_norm": True, "ar_layers": 3})
    revised = spec.codec.model_copy(update={"variant": "revised"})
    wrong = spec.model_copy(update={"codec": revised, "speech_decoder": decoder})
    problems = plan(tmp_path, wrong).report.problems
    for told in (
        "(--set model.codec.variant=ticodec)",
        "text_norm is false in vita_tts_ckpt and true in the recipe "
        "(--set model.speech_decoder.text_norm=false)",
        "transformer_num_blocks is 2 in decoder/model.json and 3 in the recipe "
        "(--set model.speech_decoder.ar_layers=2)",
    ):
        assert any(told in problem for problem in problems), told
    with raises_code(CheckpointError, "VT-WEIGHTS-038"):
        write_import(plan(tmp_path, wrong), tmp_path / "out")


def test_one_of_the_two_is_imported_without_reading_the_other(
    small_spec: ModelSpec, tmp_path: Path
) -> None:
    write_release(tmp_path / "tts")
    (tmp_path / "tts" / "decoder" / "final.pt").write_bytes(b"damaged")
    spec = speech_spec(small_spec)
    source = open_source(tmp_path / "tts", modules=("codec",))
    from vita_train.weights.formats.importing import plan_import

    report = plan_import(source, spec, ("codec",)).report
    assert not report.faults
    assert not report.problems
    with pytest.raises(CheckpointError):
        open_source(tmp_path / "tts")
    alone = imported(
        tmp_path / "tts" / "codec" / "final.pt", spec, tmp_path / "c", layout="vita-tts"
    )
    assert list(alone) == ["codec"]


def test_a_decoder_that_the_layout_cannot_say_is_left_out_with_the_reason(
    small_spec: ModelSpec, recipe: Recipe, corpus: Path, tmp_path: Path
) -> None:
    spec = speech_spec(small_spec)
    decoder = spec.speech_decoder.model_copy(update={"text_norm": True})
    spec = spec.model_copy(update={"speech_decoder": decoder})
    modules = build(spec, names=(*NAMES, *SPEECH))
    export_vita(modules, recipe.model_copy(update={"model": spec}), corpus, tmp_path / "vita")
    summary = json.loads((tmp_path / "vita" / "export.json").read_text())
    assert summary["left_out"] == ["speech_decoder"]
    assert "text_norm" in summary["reasons"]["speech_decoder"]
    back = imported(tmp_path / "vita", spec, tmp_path / "in")
    assert (
        difference(
            nn.ModuleDict({"codec": modules["codec"]}), nn.ModuleDict({"codec": back["codec"]})
        )
        == ""
    )
