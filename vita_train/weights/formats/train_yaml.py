"""``train.yaml`` of VITA's speech encoder: what each of its keys is in a recipe, in both
directions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from vita_train.recipe.audio import SubsamplingAdapterSpec
from vita_train.recipe.model import ModelSpec
from vita_train.weights.formats.stated import (
    Key,
    Settings,
    Stated,
    described,
    only,
    stated_by,
    value_at,
)

FILE = "train.yaml"
_ENCODER, _ADAPTER = "audio_encoder", "audio_adapter"
_TRANSFORMER = "encoder_conf.para_conf.transformer.transformer-"
_SUBSAMPLING = "encoder_conf.para_conf.subsampling.subsampling-"
_OVERVIEW = "encoder_conf.overview_conf.encoder-"
_FBANK = "dataset_conf.fbank_conf."
_CHUNKS = (f"{_TRANSFORMER}chunk_size", f"{_TRANSFORMER}left_chunks")


def _encoder(path: str, name: str, default: Any, *, note_only: bool = False) -> Key:
    """A key that is a number of the recipe's encoder as it stands."""
    return Key(
        _ENCODER,
        path,
        lambda settings: getattr(settings.model.audio_encoder, name),
        default,
        f"model.audio_encoder.{name}",
        note_only=note_only,
    )


def _adapter(path: str, name: str, default: Any, *kinds: str) -> Key:
    """A key that is a setting of the recipe's adapter, for some kinds or all."""
    return Key(
        _ADAPTER,
        path,
        lambda settings: getattr(settings.model.audio_adapter, name),
        default,
        f"model.audio_adapter.{name}",
        read=lambda settings: not kinds or settings.model.audio_adapter.kind in kinds,
    )


def _attention_dropout(settings: Settings) -> float:
    encoder = settings.model.audio_encoder
    return encoder.dropout if encoder.attention_dropout is None else encoder.attention_dropout


# Defaults are those of the public parsers and classes.
_KEYS: tuple[Key, ...] = (
    _encoder("input_dim", "num_mel_bins", None),
    Key(_ENCODER, f"{_OVERVIEW}layer-config", only("subsampling-transformer"), "tdnn-dtc"),
    _encoder(f"{_OVERVIEW}input-dim", "num_mel_bins", 256),
    _encoder(f"{_OVERVIEW}output-dim", "width", 256),
    Key(_ENCODER, f"{_SUBSAMPLING}rate", only(4), 4),
    _encoder(f"{_SUBSAMPLING}input-dim", "num_mel_bins", 256),
    _encoder(f"{_SUBSAMPLING}output-dim", "width", 256),
    _encoder(f"{_SUBSAMPLING}dropout-rate", "dropout", 0.1, note_only=True),
    _encoder(f"{_TRANSFORMER}input-dim", "width", 256),
    # Default 4 is the public parser's own, whatever it was meant to be
    _encoder(f"{_TRANSFORMER}output-dim", "width", 4),
    _encoder(f"{_TRANSFORMER}attention-dim", "width", 256),
    _encoder(f"{_TRANSFORMER}attention-heads", "num_heads", 4),
    _encoder(f"{_TRANSFORMER}linear-units", "intermediate_size", 1024),
    _encoder(f"{_TRANSFORMER}num-blocks", "num_layers", 6),
    _encoder(f"{_TRANSFORMER}dropout-rate", "dropout", 0.1, note_only=True),
    _encoder(f"{_TRANSFORMER}positional-dropout-rate", "dropout", 0.1, note_only=True),
    Key(
        _ENCODER,
        f"{_TRANSFORMER}attention-dropout-rate",
        _attention_dropout,
        0.0,
        "model.audio_encoder.attention_dropout",
        note_only=True,
    ),
    Key(_ENCODER, f"{_TRANSFORMER}input-layer", only("linear"), "linear"),
    Key(_ENCODER, f"{_TRANSFORMER}pos-enc-class", only("rel-enc"), "abs-enc"),
    Key(_ENCODER, f"{_TRANSFORMER}normalize-before", only(True), True),
    Key(_ENCODER, f"{_TRANSFORMER}concat-after", only(False), False),
    Key(_ENCODER, f"{_TRANSFORMER}positionwise-layer-type", only("linear"), "linear"),
    _encoder(f"{_TRANSFORMER}dynamic-chunks", "dynamic_chunks", True),
    Key(
        _ENCODER,
        f"{_TRANSFORMER}chunk_size",
        # No chunks are -1 there and 0 here
        lambda settings: settings.model.audio_encoder.chunk_size or -1,
        -1,
        "model.audio_encoder.chunk_size",
        lambda theirs: 0 if theirs == -1 else theirs,
    ),
    _encoder(f"{_TRANSFORMER}left_chunks", "left_chunks", -1),
    Key(
        _ENCODER,
        "dataset_conf.resample_conf.resample_rate",
        lambda settings: settings.audio.sample_rate,
        None,
        "data.audio.sample_rate",
    ),
    _encoder(f"{_FBANK}num_mel_bins", "num_mel_bins", None),
    Key(_ENCODER, f"{_FBANK}frame_length", only(25), 25),
    Key(_ENCODER, f"{_FBANK}frame_shift", only(10), 10),
    Key(_ENCODER, f"{_FBANK}dither", only(0.0), 0.0, note_only=True),
    _adapter("model_conf.adpter_type", "kind", "cnn"),
    Key(
        _ADAPTER,
        "model_conf.enc_out_dim",
        lambda settings: settings.model.audio_encoder.width,
        512,
        "model.audio_encoder.width",
    ),
    Key(
        _ADAPTER,
        "model_conf.llm_embed_dim",
        lambda settings: settings.model.llm.hidden_size,
        4096,
        "model.llm.hidden_size",
    ),
    _adapter("model_conf.kernel_size", "kernel", 3, "subsampling", "cnn"),
    _adapter("model_conf.norm", "norm", "batch", "subsampling"),
    replace(
        _adapter("model_conf.activation_func", "activation", "relu", "subsampling"),
        # The public code takes ReLU for any word that it does not know
        needed=lambda theirs: theirs if theirs == "gelu" else "relu",
    ),
    Key(_ADAPTER, "model_conf.add_audio_bos_eos", only(False), False),
)


def encoder_stated(found: Mapping[str, Any], settings: Settings) -> list[Stated]:
    """Return what a file says of encoder and adapter, beside a recipe.

    What the file leaves out is what the public code takes then. The sizes of fixed chunks are only
    told where the file's encoder draws them instead.
    """
    draws = value_at(found, f"{_TRANSFORMER}dynamic-chunks")
    keys = [
        replace(key, note_only=True) if key.path in _CHUNKS and draws in (None, True) else key
        for key in _KEYS
    ]
    return stated_by(keys, FILE, found, settings)


def train_yaml(settings: Settings) -> dict[str, Any]:
    """Return the content of a file that describes a recipe's encoder and adapter."""
    content = described(_KEYS, settings)
    # The public parser asks for it, and it is a place of somebody's machine
    content["model_conf"]["llm_path"] = ""
    return content | {
        "cmvn_file": "global_cmvn",
        "is_json_cmvn": True,
        "output_dim": settings.model.audio_encoder.width,
    }


def differences(model: ModelSpec, modules: Collection[str], *, shapes: bool) -> list[str]:
    """Return what of a recipe's encoder and adapter the file has no key for, and the public
    modules compute otherwise.

    Args:
        model: the recipe's.
        modules: those that are looked at.
        shapes: also what the shape of some tensor tells, and the public code derives from another.
    """
    encoder, adapter = model.audio_encoder, model.audio_adapter
    fixed: list[tuple[str, object, object]] = [
        ("audio_encoder.relative_shift", encoder.relative_shift, False)
    ]
    if isinstance(adapter, SubsamplingAdapterSpec):
        fixed.append(("audio_adapter.stride", adapter.stride, 2))
    if shapes:
        channels = encoder.conv_channels or encoder.width
        fixed.append(("audio_encoder.conv_channels", channels, encoder.width))
        if isinstance(adapter, SubsamplingAdapterSpec):
            fixed.append(("audio_adapter.hidden_size", adapter.hidden_size, 2 * encoder.width))
    return [
        f"model.{name} is {ours}, not {theirs}"
        for name, ours, theirs in fixed
        if ours != theirs and name.partition(".")[0] in modules
    ]
