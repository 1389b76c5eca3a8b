"""Adapters as files, in PEFT's own layout: ``adapter_config.json`` and
``adapter_model.safetensors``.

The header of the weights also names the base that the adapter was trained on, by a digest of its
content, so that an adapter is never merged into other weights, whatever the files are called.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vita_train.errors import CheckpointError
from vita_train.models.loading import check_finite_tensors
from vita_train.models.lora import add_adapters, set_adapter, target_layers
from vita_train.recipe.lora import LoraSpec
from vita_train.storage.digest import digest_of, sha256_file
from vita_train.weights.header import read_header
from vita_train.weights.save import without_aliases

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
#: Settings of PEFT that say where an adapter comes from, and change nothing of what it computes.
_NEUTRAL = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "inference_mode",
        "megatron_core",
        "peft_version",
        "revision",
        "task_type",
    }
)


class AdapterConfig(BaseModel):
    """What an adapter file says of itself, as far as adapters are made here."""

    model_config = ConfigDict(extra="allow", strict=True)

    peft_type: Literal["LORA"] = "LORA"
    r: int = Field(ge=1)
    lora_alpha: int | float = Field(gt=0)
    lora_dropout: float = 0.0
    bias: Literal["none", "all", "lora_only"] = "none"
    target_modules: list[str] = Field(min_length=1)

    @classmethod
    def of(cls, spec: LoraSpec, module: nn.Module, *, where: str = "lora.roles") -> AdapterConfig:
        """Return the configuration that a stage's settings give a module.

        Raises:
            RecipeError: the module has no layers of a role.
        """
        return cls(
            r=spec.rank,
            lora_alpha=spec.alpha,
            lora_dropout=spec.dropout,
            bias=spec.bias,
            target_modules=target_layers(module, spec.roles, where=where),
        )

    def peft(self, **neutral: Any) -> Any:
        """Return PEFT's own configuration, with settings that change nothing laid over it."""
        from peft import LoraConfig

        return LoraConfig(
            r=self.r,
            lora_alpha=self.lora_alpha,  # type: ignore[arg-type]
            lora_dropout=self.lora_dropout,
            bias=self.bias,
            target_modules=list(self.target_modules),
            **neutral,
        )


@dataclass(frozen=True)
class Adapter:
    """A trained adapter."""

    config: AdapterConfig
    tensors: dict[str, Tensor]
    """By PEFT's names."""
    base: str
    """Digest of the weights it belongs to."""


def weights_digest(module: nn.Module) -> str:
    """Return a digest of a module's weights as float32: the same for every type and layout they are
    stored in."""
    tensors = without_aliases(module.state_dict())

    def one(item: tuple[str, Tensor]) -> list[Any]:
        name, tensor = item
        # float32 holds every bfloat16 and float16 exactly, so the digest is that of the numbers
        plain = (
            tensor.detach()
            .to("cpu", torch.float32 if tensor.is_floating_point() else tensor.dtype)
            .contiguous()
        )
        data: Any = plain.view(-1).view(torch.uint8).numpy()
        return [name, *tensor.shape, hashlib.sha256(data).hexdigest()]

    with ThreadPoolExecutor() as pool:  # hashing leaves the interpreter to the others
        return digest_of(list(pool.map(one, sorted(tensors.items()))))


def adapted_digest(files: Sequence[Path]) -> str:
    """Return the digest of a base with its adapter merged: of both names, not of sums that machines
    round apart."""
    return digest_of([base_of(files), *(sha256_file(path) for path in _pair(files))])


def base_of(files: Sequence[Path]) -> str:
    """Return the digest of the weights that an adapter belongs to; empty if its files do not
    say."""
    _, weights = _pair(files)
    # Called for its checks: the header is a stranger's and safe_open trusts its sizes
    read_header(weights)
    with safe_open(weights, framework="pt") as file:
        return str((file.metadata() or {}).get("base", ""))


def save_adapter(
    adapter: Adapter, directory: Path, *, source: str | None = None, language: bool = True
) -> tuple[Path, Path]:
    """Write an adapter and return its two files. The same adapter gives the same bytes.

    Args:
        adapter: what to write.
        directory: made if it is not there.
        source: name of the pretrained model it adapts, for PEFT to find.
        language: it adapts a causal language model; PEFT then wraps it as one.
    """
    directory.mkdir(parents=True, exist_ok=True)
    full = adapter.config.peft(
        base_model_name_or_path=source,
        task_type="CAUSAL_LM" if language else None,
        # As PEFT writes it: whoever loads the adapter does not train it unasked
        inference_mode=True,
    ).to_dict()
    text = json.dumps(
        full,
        indent=1,
        sort_keys=True,
        # PEFT keeps target modules as a set, whose order changes from process to process
        default=lambda value: sorted(value) if isinstance(value, set) else str(value),
    )
    config, weights = directory / CONFIG_NAME, directory / WEIGHTS_NAME
    config.write_text(text + "\n", encoding="utf-8")
    save_file(
        {
            name: tensor.detach().cpu().contiguous()
            for name, tensor in sorted(adapter.tensors.items())
        },
        weights,
        {"base": adapter.base},
    )  # a second entry would stand before or after it by chance
    return config, weights


def attach_adapter(module: nn.Module, files: Sequence[Path], base: str) -> None:
    """Put a stored adapter into a module, not merged yet.

    Args:
        module: the adapter's base, in the type to merge in.
        files: configuration and weights.
        base: digest of the module's weights.

    Raises:
        CheckpointError: it belongs to other weights, does not fit, or is of a kind that is not made
            here.
    """
    path, weights = _pair(files)
    config = read_config(path)
    # Before anything is made of a size that a file claims.
    ranks = {
        info.shape[0]
        for name, info in read_header(weights).items()
        if ".lora_A." in name and info.shape
    }
    if ranks != {config.r}:
        raise CheckpointError(
            f"the adapter's matrices are of rank {', '.join(map(str, sorted(ranks))) or 'none'}, "
            f"its "
            f"configuration says {config.r}",
            code="VT-WEIGHTS-017",
            where=str(path),
            remedy="write both files again",
        )
    if (wanted := base_of(files)) != base:
        raise CheckpointError(
            f"the adapter was trained on other weights (digest {wanted[:12] or 'not given'}) than "
            f"it "
            f"is to be merged into ({base[:12]})",
            code="VT-WEIGHTS-018",
            where=str(weights),
            remedy="give the base it was trained on, or train the adapter again",
        )
    try:
        tensors = load_file(weights)
    except SafetensorError as error:
        raise CheckpointError(
            f"cannot be read: {error}",
            code="VT-WEIGHTS-019",
            where=str(weights),
            remedy="write the file again",
        ) from error
    check_finite_tensors(tensors, where=str(weights))
    try:
        add_adapters(module, config.peft())
    except ValueError as error:
        raise CheckpointError(
            f"fits no layer of the model: {error}".splitlines()[0],
            code="VT-WEIGHTS-020",
            where=str(path),
            remedy="use the recipe the adapter was trained with",
        ) from error
    set_adapter(module, tensors, where=str(weights))


def _pair(files: Sequence[Path]) -> tuple[Path, Path]:
    by_name = {Path(path).name: Path(path) for path in files}
    if set(by_name) != {CONFIG_NAME, WEIGHTS_NAME}:
        raise CheckpointError(
            f"an adapter is {CONFIG_NAME} and {WEIGHTS_NAME}, not {', '.join(sorted(by_name))}",
            code="VT-WEIGHTS-021",
            where=str(files[0]) if files else "",
        )
    return by_name[CONFIG_NAME], by_name[WEIGHTS_NAME]


def read_config(path: Path) -> AdapterConfig:
    """Read a configuration; whatever would change what the adapter computes and is not known here
    is refused.

    Raises:
        CheckpointError: it cannot be read, is no LoRA adapter's, or asks for what is not done here.
    """
    try:
        config = AdapterConfig.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(
            f"cannot be read: {error.strerror}", code="VT-WEIGHTS-022", where=str(path)
        ) from error
    except (ValidationError, UnicodeDecodeError) as error:
        first = (
            error.errors()[0]
            if isinstance(error, ValidationError)
            else {"loc": (), "msg": "is no text"}
        )
        place = ".".join(map(str, first["loc"]))
        raise CheckpointError(
            f"is no LoRA adapter: {place}: {first['msg']}", code="VT-WEIGHTS-023", where=str(path)
        ) from error
    # Through JSON, as the file was: sets and enums become what they are compared with
    usual = json.loads(json.dumps(config.peft().to_dict(), default=str))
    strange = [
        name
        for name, value in sorted((config.model_extra or {}).items())
        # False, 0, null and empty switch a setting off
        if value and name not in _NEUTRAL and value != usual.get(name)
    ]
    if strange:
        raise CheckpointError(
            f"the adapter uses {', '.join(strange)}, which is not supported",
            code="VT-WEIGHTS-024",
            where=str(path),
            remedy="merge it with PEFT first, and give the merged model as the source",
        )
    return config
