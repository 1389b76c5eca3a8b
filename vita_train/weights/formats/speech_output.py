"""VITA's ``vita_tts_ckpt``: the speech decoder in ``decoder/``, the codec in ``codec/``, each with
its weights in a ``.pt`` and its settings as JSON or YAML; read, and written."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vita_train.errors import CheckpointError
from vita_train.weights.formats.shards import read_settings
from vita_train.weights.formats.speech_names import (
    PREFIX_LAYERS,
    PREFIX_TRAINED,
    SPEECH_PREFIXES,
    VOICE,
)
from vita_train.weights.formats.stated import Key, Settings, Stated, described, only, stated_by
from vita_train.weights.pickles import read_groups, read_pickle
from vita_train.weights.staging import write_json

#: What the released folder is called, within the release.
FOLDER = "vita_tts_ckpt"
_WEIGHTS, _SETTINGS = "final.pt", "model.json"
_FOLDERS = {module: prefix.rstrip("/") for module, prefix in SPEECH_PREFIXES.items()}
_CODEC, _DECODER = "codec", "speech_decoder"
#: Whether the decoder has layers for a prefix.
_PREFIX = "kv_cache_prefix_finetune"


def _codec(path: str, name: str, *, note_only: bool = False) -> Key:
    """A key that is a setting of the recipe's codec as it stands."""
    return Key(
        _CODEC,
        path,
        lambda settings: _listed(getattr(settings.model.codec, name)),
        key=f"model.codec.{name}",
        note_only=note_only,
    )


def _decoder(path: str, name: str, *, note_only: bool = False) -> Key:
    """A key that is a setting of the recipe's speech decoder as it stands."""
    return Key(
        _DECODER,
        path,
        lambda settings: getattr(settings.model.speech_decoder, name),
        key=f"model.speech_decoder.{name}",
        note_only=note_only,
    )


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _global_features(settings: Settings) -> list[int]:
    codec = settings.model.codec
    # The width at the encoder's tap, after half of its stages
    width = codec.channels >> (len(codec.upsample_rates) - len(codec.upsample_rates) // 2)
    return [width, width // 2, codec.global_dim, 3, 1]


_CODEC_KEYS: tuple[Key, ...] = (
    Key(_CODEC, "resblock", only("1"), "1"),
    _codec("upsample_rates", "upsample_rates"),
    _codec("upsample_kernel_sizes", "upsample_kernels"),
    _codec("upsample_initial_channel", "channels"),
    Key(_CODEC, "resblock_kernel_sizes", only([3, 7, 11])),
    Key(_CODEC, "resblock_dilation_sizes", only([[1, 3, 5]] * 3)),
    _codec("sampling_rate", "sample_rate"),
    _codec("n_codes", "codebook_size"),
    _codec("n_code_groups", "code_groups"),
    # Spelt so in the released file
    _codec("residul_layer", "code_residuals"),
    _codec("global_code_num", "num_global_tokens"),
    Key(_CODEC, "global_feature_conv", _global_features),
    Key(_CODEC, "codebook_loss_lambda", only(1.0), note_only=True),
    Key(_CODEC, "commitment_loss_lambda", only(0.25), note_only=True),
    _codec("segment_size", "segment", note_only=True),
)
_DECODER_KEYS: tuple[Key, ...] = (
    _decoder("idim", "width"),
    Key(
        _DECODER,
        "odim",
        lambda settings: settings.model.codec.codebook_size,
        key="model.codec.codebook_size",
    ),
    _decoder("transformer_attention_dim", "width"),
    _decoder("transformer_linear_units", "intermediate_size"),
    _decoder("transformer_num_blocks", "ar_layers"),
    _decoder("transformer_attention_heads", "num_heads"),
    _decoder("transformer_dropout_rate", "dropout", note_only=True),
    _decoder("encoder_output_dim", "width"),
    Key(_DECODER, "encoder_criterion", only("ce"), note_only=True),
    Key(_DECODER, "encoder_pre_norm_type", only("ln"), note_only=True),
    Key(_DECODER, "encoder_upsample_rate", only(1), note_only=True),
    Key(_DECODER, "encoder_drop_rate", only(0.0), note_only=True),
    Key(
        _DECODER,
        _PREFIX,
        lambda settings: int(settings.model.speech_decoder.prefix),
        0,
        key="model.speech_decoder.prefix",
        needed=bool,
    ),
)


def is_speech_output(directory: Path) -> bool:
    """Say whether a directory looks like one: it has both folders, or one of them with weights."""
    return any(_weights_of(directory / folder) for folder in _FOLDERS.values())


def read_speech_output(
    directory: Path, modules: Collection[str] = ()
) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]], list[str]]:
    """Return tensors by folder and name, the settings of each folder that is there, and notes.

    Args:
        directory: with ``codec``, ``decoder`` or both.
        modules: what to read; all that is there when empty.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    tensors: dict[str, Tensor] = {}
    settings: dict[str, dict[str, Any]] = {}
    notes: list[str] = []
    for module, folder in _FOLDERS.items():
        place = directory / folder
        if place.is_dir():
            # Either one's settings may be needed for the other: the voice stands among the codec's.
            settings[module] = _settings_of(place)
        if modules and module not in modules:
            continue
        weights = _weights_of(place)
        if weights is None:
            notes.append(f"{folder}/ holds no weights")
        elif module == _CODEC:
            tensors |= read_codec_file(weights)
        else:
            found = read_pickle(weights)
            tensors |= {f"{SPEECH_PREFIXES[module]}{name}": found[name] for name in found}
            if any(name.startswith(PREFIX_LAYERS) for name in found):
                tensors[SPEECH_PREFIXES[module] + PREFIX_TRAINED] = torch.tensor(True)
    voice = settings.get(_CODEC, {}).get(VOICE)
    if voice is not None and (not modules or _DECODER in modules) and _DECODER in settings:
        tensors[SPEECH_PREFIXES[_DECODER] + VOICE] = _voice(voice, directory)
    return tensors, settings, notes


def read_codec_file(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a codec's ``.pt``: state dicts named generator, quantizer, encoder.

    Raises:
        CheckpointError: it is damaged, or holds no such dictionaries.
    """
    return {
        f"{SPEECH_PREFIXES[_CODEC]}{group}.{name}": tensor
        for group, tensors in read_groups(path).items()
        for name, tensor in tensors.items()
    }


def speech_stated(found: Mapping[str, Mapping[str, Any]], settings: Settings) -> list[Stated]:
    """Return what the settings of the folders say, beside a recipe."""
    stated: list[Stated] = []
    codec, decoder = settings.model.codec, settings.model.speech_decoder
    stated.append(
        Stated(_CODEC, FOLDER, "computation", "ticodec", codec.variant, "model.codec.variant")
    )
    if _CODEC in found:
        file = f"codec/{_SETTINGS}"
        stated += stated_by(_CODEC_KEYS, file, found[_CODEC], settings)
        rates = found[_CODEC].get("upsample_rates")
        # type, not isinstance: true is an int in Python, and prod would take it
        if isinstance(rates, list) and all(type(rate) is int for rate in rates):
            product = "product of upsample_rates"
            key = "model.codec.hop_length"
            stated.append(Stated(_CODEC, file, product, prod(rates), codec.hop_length, key))
    if _DECODER in found:
        stated += stated_by(_DECODER_KEYS, f"decoder/{_SETTINGS}", found[_DECODER], settings)
    for name, here, there in (
        ("text_norm", decoder.text_norm, False),
        ("head_bias", decoder.head_bias, True),
        ("alignment", decoder.alignment, "none"),
    ):
        stated.append(Stated(_DECODER, FOLDER, name, there, here, f"model.speech_decoder.{name}"))
    return stated


def write_speech_output(
    directory: Path, tensors: Mapping[str, Tensor], settings: Settings, modules: Collection[str]
) -> None:
    """Write the folders of some modules.

    Args:
        directory: to write them into.
        tensors: by folder and name, as `read_speech_output` gives them.
        settings: of the recipe.
        modules: ``codec``, ``speech_decoder`` or both.
    """
    voice = SPEECH_PREFIXES[_DECODER] + VOICE
    for module in (name for name in _FOLDERS if name in modules):
        folder, prefix = directory / _FOLDERS[module], SPEECH_PREFIXES[module]
        folder.mkdir(parents=True)
        own = {
            name.removeprefix(prefix): tensor
            for name, tensor in tensors.items()
            if name.startswith(prefix) and name != voice
        }
        if module == _CODEC:
            spoken = tensors[voice].tolist() if voice in tensors else None
            said = described(_CODEC_KEYS, settings) | ({VOICE: spoken} if spoken else {})
            # A pickle, because the public code loads nothing else here
            torch.save(_grouped(own), folder / _WEIGHTS)
            write_json(folder / _SETTINGS, said)
        else:
            arguments = described(_DECODER_KEYS, settings)
            own.pop(PREFIX_TRAINED, None)
            torch.save(own, folder / _WEIGHTS)
            # The public code reads three values: sizes in and out, then everything
            content = [arguments["idim"], arguments["odim"], arguments]
            (folder / _SETTINGS).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _grouped(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        group, _, rest = name.partition(".")
        groups.setdefault(group, {})[rest] = tensor
    return groups


def _weights_of(folder: Path) -> Path | None:
    """Return the weights of a folder: ``final.pt``, or the only ``.pt`` there is."""
    if (folder / _WEIGHTS).is_file():
        return folder / _WEIGHTS
    files = sorted(folder.glob("*.pt"))
    return files[0] if len(files) == 1 else None


def _settings_of(folder: Path) -> dict[str, Any]:
    """Return the settings of a folder; of a list, as the decoder has it, its last entry.

    Raises:
        CheckpointError: there is no file of them, or it is damaged.
    """
    files = [path for end in ("json", "yaml", "yml") for path in sorted(folder.glob(f"*.{end}"))]
    if not files:
        raise CheckpointError(
            "holds weights without their settings",
            code="VT-WEIGHTS-084",
            where=str(folder),
            remedy=f"copy its {_SETTINGS} too",
        )
    content = read_settings(files[0])
    if isinstance(content, list) and content:
        content = content[-1]
    if not isinstance(content, dict):
        raise CheckpointError("is no table of settings", code="VT-WEIGHTS-085", where=str(files[0]))
    return content


def _voice(value: Any, directory: Path) -> Tensor:
    if not isinstance(value, list) or not all(type(token) is int for token in value):
        raise CheckpointError(
            f"{VOICE} is no list of whole numbers",
            code="VT-WEIGHTS-086",
            where=str(directory / "codec"),
        )
    return torch.tensor(value, dtype=torch.long)
