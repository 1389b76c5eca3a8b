"""Where tensors of the codec and the speech decoder lie in VITA's ``vita_tts_ckpt``.

Names have the folder before them. ``codec/`` holds dictionaries by network, whose layers are under
weight norm as torch first wrote it: ``weight_g`` its length, ``weight_v`` its direction.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from vita_train.recipe.tower import Rule

if TYPE_CHECKING:
    from vita_train.recipe.model import ModelSpec

SPEECH_PREFIXES: dict[str, str] = {"codec": "codec/", "speech_decoder": "decoder/"}
SPEECH_MODULES: tuple[str, ...] = tuple(SPEECH_PREFIXES)
#: Name of the voice that the release speaks with; it stands among the codec's settings.
VOICE = "global_tokens"
#: The decoder's optional layers for a prefix, and what stands in no file: that they are trained.
PREFIX_LAYERS, PREFIX_TRAINED = "layers_prefix.", "prefix_trained"
#: What the public networks hold and never use.
UNUSED = r"codec/encoder\.linear\..+"

#: Residual blocks of a stage, which the public code numbers through.
_BLOCKS = 3
_NORMED: tuple[tuple[str, str], ...] = (
    (r"bias", "bias"),
    (r"parametrizations\.weight\.original0", "weight_g"),
    (r"parametrizations\.weight\.original1", "weight_v"),
)
_DECODER: tuple[Rule, ...] = (
    (r"(embedding|norm)\.weight", r"\1.weight", ""),
    (r"nar_layers\.(.+)", r"layers_pre_nn.\1", ""),
    (r"ar_layers\.(.+)", r"layers.\1", ""),
    (r"head\.(\w+)", r"out_fnn.\1", ""),
    (r"prefix\.layers\.(.+)", rf"{PREFIX_LAYERS}\1", ""),
    (r"prefix\.trained", PREFIX_TRAINED, ""),
    (r"voice", VOICE, ""),
)


def speech_rules(module: str, spec: ModelSpec) -> tuple[Rule, ...]:
    """Return the rules for one of the two modules' names, below its folder."""
    if module != "codec":
        return _DECODER
    codec = spec.codec
    return _codec_rules(len(codec.upsample_rates), codec.code_groups, codec.code_residuals)


def canonical_speech_name(name: str) -> str:
    """Return a stored name with weight norm spelt as torch first did."""
    return re.sub(
        r"parametrizations\.weight\.original([01])$",
        lambda found: ("weight_g", "weight_v")[int(found[1])],
        name,
    )


@cache
def _codec_rules(stages: int, groups: int, residuals: int) -> tuple[Rule, ...]:
    rules: list[Rule] = []
    for ours, theirs in (("encoder", "encoder"), ("decoder", "generator")):
        up = "down" if ours == "encoder" else "up"
        for layer, there in _NORMED:
            rules.append((rf"{ours}\.inlet\.{layer}", f"{theirs}.conv_pre.{there}", ""))
            # The encoder's are called ups there as well
            rules.append((rf"{ours}\.{up}\.(\d+)\.{layer}", rf"{theirs}.ups.\1.{there}", ""))
            for stage in range(stages):
                for place in range(_BLOCKS):
                    block = rf"{ours}\.stages\.{stage}\.blocks\.{place}"
                    number = stage * _BLOCKS + place
                    for kind, convs in (("dilated", "convs1"), ("plain", "convs2")):
                        rules.append(
                            (
                                rf"{block}\.{kind}\.(\d+)\.{layer}",
                                rf"{theirs}.resblocks.{number}.{convs}.\1.{there}",
                                "",
                            )
                        )
    rules += [
        (
            rf"encoder\.stages\.{stage}\.norms\.{place}\.(\w+)",
            rf"encoder.normalize.{stage * _BLOCKS + place}.\1",
            "",
        )
        for stage in range(stages)
        for place in range(_BLOCKS)
    ]
    rules += [
        (rf"decoder\.outlet\.{layer}", f"generator.conv_post.{to}", "") for layer, to in _NORMED
    ]
    voice = "encoder.GlobalTokenEncoder"
    rules += [
        (r"encoder\.outlet\.(weight|bias)", r"encoder.conv_post.\1", ""),
        # Activations between the convolutions are numbered too: every other index
        *(
            (rf"global_encoder\.convs\.{k}\.(\w+)", rf"{voice}.conv.{2 * k}.\1", "")
            for k in range(3)
        ),
        (r"global_encoder\.project\.(\w+)", rf"{voice}.fn.0.\1", ""),
        (r"global_encoder\.norm\.(\w+)", rf"{voice}.fn.2.\1", ""),
        (
            r"global_encoder\.quantizers\.(\d+)\.codebook",
            r"quantizer.quantizer_modules_globaltokens.\1.embedding.weight",
            "",
        ),
        (r"quantizer\.codebook", "quantizer.quantizer_modules.0.embedding.weight", ""),
    ]
    rules += [
        (
            # Rounds are quantizer_modules, quantizer_modules2, ...: the first has no number
            rf"quantizer\.books\.{turn * groups + group}\.codebook",
            f"quantizer.quantizer_modules{turn + 1 if turn else ''}.{group}.embedding.weight",
            "",
        )
        for turn in range(residuals)
        for group in range(groups)
    ]
    return tuple(rules)
