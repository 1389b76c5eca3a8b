"""The language model: one of several families, all through transformers' own classes.

transformers is imported where a model is built: it takes seconds, and stages of speech alone need
none of it.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from vita_train.errors import CheckpointError
from vita_train.models.attention.packed import packed_name
from vita_train.models.loading import check_loaded
from vita_train.plugins import named
from vita_train.recipe.family import FAMILIES, LanguageFamily
from vita_train.recipe.model import LlmSpec

#: Settings that a source must share with the recipe: its shape, and what its weights were trained
#: to be computed with.
_SHARED = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "tie_word_embeddings",
    "head_dim",
    "rope_parameters",
    "rms_norm_eps",
    "hidden_act",
    "num_local_experts",
    "num_experts_per_tok",
)


#: Equal tokens then begin some 1.5 logits above others in the demo's model; at 1 the start is soon
#: forgotten.
_MIMETIC_GAIN = 2.0

#: Logits by which a head that looks back prefers its token to the one on either side, and the
#: slowest rotary frequency that its biases use, as a share of the fastest.
_LOOK_BACK_MARGIN = 6.0
_FAST = 0.1


class Decoded(NamedTuple):
    """What a language model makes of its input."""

    hidden: Tensor
    """(B, L, D) last hidden states, final norm applied."""
    routers: tuple[Tensor, ...] = ()
    """(B * L, experts) router logits of each block; empty without experts, or where nobody
    asked."""


def llm_config(spec: LlmSpec) -> Any:
    """Return transformers' configuration for a specification. The vocabulary is never resized
    afterwards.

    No family has a sliding window: a document's attention reaches back to its beginning.
    """
    settings: dict[str, Any] = {
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.hidden_size,
        "num_hidden_layers": spec.num_layers,
        "num_attention_heads": spec.num_heads,
        "num_key_value_heads": spec.num_kv_heads,
        "intermediate_size": spec.intermediate_size,
        "max_position_embeddings": spec.max_positions,
        "rope_parameters": _rotary(spec),
        "rms_norm_eps": spec.rms_norm_eps,
        "tie_word_embeddings": spec.tie_embeddings,
        "use_cache": False,
    }
    if spec.head_dim is not None:
        settings["head_dim"] = spec.head_dim
    if spec.moe is not None:
        settings |= spec.moe.model_dump()
    family = FAMILIES[spec.family]
    config = named(family.config)(**settings, **family.settings)
    config._attn_implementation = packed_name(spec.attention)
    return config


def _rotary(spec: LlmSpec) -> dict[str, Any]:
    if spec.rope_factor == 1:
        return {"rope_type": "default", "rope_theta": spec.rope_theta}
    return {"rope_type": "linear", "rope_theta": spec.rope_theta, "factor": spec.rope_factor}


def build_llm(spec: LlmSpec) -> Any:
    """Return a randomly initialised language model."""
    llm = named(FAMILIES[spec.family].network)(llm_config(spec))
    if spec.init == "mimetic":
        for layer in llm.model.layers:
            _mimic(layer.self_attn)
        _look_back(llm.model.layers[0].self_attn, llm.model.rotary_emb.inv_freq)
    return llm


@torch.no_grad()
def _mimic(attention: Any) -> None:
    """Make keys equal to queries, and both larger: the product of the two then resembles the
    identity, as it does in trained models (Trockman and Kolter, "Mimetic initialization of
    self-attention layers", 2023).

    Values and outputs stay as they are: starting those as the paper does made no difference to the
    demo.
    """
    query, key = attention.q_proj.weight, attention.k_proj.weight
    query.mul_(_MIMETIC_GAIN)
    # (heads * size, D) -> (heads, size, D)
    heads = query.unflatten(0, (-1, attention.head_dim))
    # Query heads that share a key differ; the key follows the first of them.
    key.copy_(heads[:: len(query) // len(key)].flatten(0, 1))


@torch.no_grad()
def _look_back(attention: Any, turns: Tensor) -> None:
    """Let two heads in five begin by looking at the token before, and two at the one before that.

    Reading what stands beside a word takes heads that look at a fixed distance; how long a small
    model takes to find them is a matter of luck. Under rotary positions two biases give such a
    head: with key bias b and query bias R(-n) b, a token d before the query scores b' R(d - n) b,
    which is largest at d = n. Families without biases stay as they are.

    Args:
        attention: of the first layer.
        turns: (head_dim / 2,) radians a position by which each pair of channels is rotated.
    """
    query, key = attention.q_proj.bias, attention.k_proj.bias
    if query is None or key is None:
        return
    size = attention.head_dim
    heads, groups = len(key) // size, len(query) // len(key)
    # Slow pairs would hardly tell neighbours apart
    fast = (turns > _FAST * turns[0]).float()
    margin = (fast * (1 - turns.cos())).sum() / size**0.5
    key_bias = fast * (_LOOK_BACK_MARGIN / margin) ** 0.5
    each = 2 * heads // 5
    for head, back in enumerate([1] * each + [2] * each):
        key[head * size : (head + 1) * size] = torch.cat([key_bias, torch.zeros_like(key_bias)])
        turned = torch.cat([key_bias * (turns * back).cos(), -key_bias * (turns * back).sin()])
        query.unflatten(0, (heads, groups, size))[head] = turned


def load_llm(spec: LlmSpec, source: str, dtype: torch.dtype = torch.float32) -> Any:
    """Return the language model of a directory or hub name (safetensors only), checked against the
    specification.

    Args:
        spec: its shape.
        source: where it is.
        dtype: type of the parameters; no wider copy of them is made.

    Raises:
        CheckpointError: nothing readable is there, it is of another family, or its shape is not the
            one the recipe states.
    """
    family = FAMILIES[spec.family]
    found, wanted = _configuration(family, source), llm_config(spec)
    wrong = [
        f"{name} is {getattr(found, name, None)} there and {getattr(wanted, name, None)} in the "
        f"recipe"
        for name in _SHARED
        if _setting(found, name) != _setting(wanted, name)
    ]
    if wrong:
        raise CheckpointError(
            "; ".join(wrong),
            code="VT-WEIGHTS-001",
            where=source,
            remedy="set model.llm to the shape of the source",
        )
    window = getattr(found, "sliding_window", None)
    if window is not None and window < spec.max_positions:
        raise CheckpointError(
            f"attention there looks back {window} positions only, which is not done here",
            code="VT-WEIGHTS-002",
            where=source,
            remedy=f"set model.llm.max_positions to at most {window}, where it is the "
            "same, or take a source without a sliding window",
        )
    # Another library's checkpoint may hold the model as a part; its names then begin with the
    # part's.
    mapping = {f"^{re.escape(spec.prefix)}": ""} if spec.prefix else None
    try:
        model, found = named(family.network).from_pretrained(
            source,
            config=wanted,
            dtype=dtype,
            # A pickle would run whatever is in it
            use_safetensors=True,
            output_loading_info=True,
            # Else transformers raises by itself, before check_loaded can name all that is wrong
            ignore_mismatched_sizes=True,
            key_mapping=mapping,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"weights cannot be read: {error}".splitlines()[0], code="VT-WEIGHTS-003", where=source
        ) from error
    # A tied head is in no file and has its values all the same
    tied = (
        set(getattr(model, "all_tied_weights_keys", None) or ())
        if wanted.tie_word_embeddings
        else set()
    )
    # transformers tells a mismatch as (name, shape in the file, shape of the model)
    check_loaded(
        model,
        missing=set(found["missing_keys"]) - tied,
        unexpected=found["unexpected_keys"],
        mismatched=[
            str(key[0] if isinstance(key, tuple) else key) for key in found["mismatched_keys"]
        ],
        where=source,
        setting="model.llm",
        ignore=spec.ignore,
    )
    head, embeddings = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    if wanted.tie_word_embeddings and head is not embeddings:
        raise CheckpointError(
            "holds a head of its own, other than the embeddings, and the recipe ties the two",
            code="VT-WEIGHTS-096",
            where=source,
            remedy="say so in its config.json (tie_word_embeddings: false) and set "
            "model.llm.tie_embeddings=false, or remove the head from its files",
        )
    return model


def _configuration(family: LanguageFamily, source: str) -> Any:
    # transformers takes its own defaults where a directory holds no configuration.
    nothing = CheckpointError(
        f"no configuration of family {family.name} can be read",
        code="VT-WEIGHTS-004",
        where=source,
        remedy="give a directory with config.json and *.safetensors",
    )
    config = named(family.config)
    try:
        values, _ = config.get_config_dict(source)
        kind = values.get("model_type")
        if kind is not None and kind != family.model_type:
            raise CheckpointError(
                f"config.json says model_type {kind}, the recipe's family is a {family.model_type}",
                code="VT-WEIGHTS-005",
                where=source,
                remedy="set model.llm.family to the family of the source",
            )
        if kind is None:
            raise nothing
        if values.get("quantization_config"):
            raise CheckpointError(
                "is quantised: its numbers mean nothing without their scales",
                code="VT-WEIGHTS-097",
                where=source,
                remedy="take the weights as they were before; a stage's `quantize` makes them "
                "smaller here",
            )
        return config.from_dict(values)
    except (OSError, ValueError, TypeError) as error:
        raise nothing from error


def _setting(config: Any, name: str) -> Any:
    """Return a setting in the form that two configurations can be compared in."""
    value: Any = getattr(config, name, None)
    if name == "head_dim":
        # null in config.json means this
        return value or config.hidden_size // config.num_attention_heads
    if name == "rope_parameters":
        return {
            # JSON's 10000 and 10000.0 are the same rate
            key: float(part) if isinstance(part, int) else part
            for key, part in value.items()
            if part is not None
        }
    return value


def decode(
    llm: Any,
    embeds: Tensor,
    position_ids: Tensor,
    mask: Tensor | None,
    cache: Any = None,
    *,
    routers: bool = False,
    **packing: Any,
) -> Decoded:
    """Return the last hidden states, and the routers' logits if asked for.

    Args:
        llm: a language model of any family, wrapped or not.
        embeds: (B, L, D) input embeddings.
        position_ids: (B, L) rotary positions.
        mask: (B, 1, L, keys) bool, True where a query may look; None is plain causal attention.
        cache: transformers' cache to read and extend; none keeps nothing. Without an explicit mask
            a cache makes packed documents see each other, so both are always passed by hand.
        routers: of a model with experts, return the logits they are chosen by.
        packing: the documents of a packed row, for attention without a mask: see
            ``packed_attention``.
    """
    if routers and has_experts(llm):
        packing["output_router_logits"] = True
    # Not llm itself, which would make logits of every position
    output = llm.model(
        inputs_embeds=embeds,
        # Where layers are of several kinds, as Qwen2's may be, each chooses its mask by its kind.
        # A mask of four dimensions is taken as it is, not made causal
        attention_mask={"full_attention": mask}
        if getattr(llm.config, "layer_types", None)
        else mask,
        position_ids=position_ids,
        past_key_values=cache,
        use_cache=cache is not None,
        **packing,
    )
    return Decoded(output.last_hidden_state, tuple(getattr(output, "router_logits", None) or ()))


def has_experts(module: Any) -> bool:
    """Say whether a module is a language model whose blocks have experts."""
    # Asked of any module; transformers' configurations have the field where there are experts.
    return hasattr(getattr(module, "config", None), "num_local_experts")


def read_share(module: nn.Module, name: str) -> float:
    """Return the share of positions that read a parameter: all of them, but for those of
    experts."""
    if ".experts." not in name or not has_experts(module):
        return 1.0
    config: Any = module.config
    return float(config.num_experts_per_tok / config.num_local_experts)


def balance_loss(llm: Any, routers: tuple[Tensor, ...], real: Tensor) -> Tensor:
    """Return the load-balancing loss of experts, a scalar.

    Where all experts are used alike it is the number of experts that a position is read by.

    Switch Transformer (Fedus et al. 2021), equations 4 to 6, over the positions of all blocks
    together, as transformers has it for Mixtral: the number of experts x the sum over experts of
    (share of choices) x (mean probability).

    Args:
        llm: the model with experts.
        routers: (B * L, experts) logits of each block.
        real: (B, L) bool; padding is not counted.
    """
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    config, gates = llm.config, cast(Any, routers)  # declared there as a tuple of one
    loss = load_balancing_loss_func(
        gates, config.num_local_experts, config.num_experts_per_tok, real
    )
    assert isinstance(loss, Tensor)
    return loss
