"""Pretrained language model, tower and tokenizer: there, and of the shape that the recipe has."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vita_train.console import Found
from vita_train.errors import StorageError, UserError
from vita_train.launch.stage import backend_of
from vita_train.recipe.family import FAMILIES
from vita_train.recipe.model import LlmSpec
from vita_train.recipe.schema import Recipe

#: Settings of ``model.llm`` by their names in a config.json.
_LLM: dict[str, Callable[[LlmSpec], Any]] = {
    "model_type": lambda llm: FAMILIES[llm.family].model_type,
    "vocab_size": lambda llm: llm.vocab_size,
    "hidden_size": lambda llm: llm.hidden_size,
    "num_hidden_layers": lambda llm: llm.num_layers,
    "num_attention_heads": lambda llm: llm.num_heads,
    "num_key_value_heads": lambda llm: llm.num_kv_heads,
    "intermediate_size": lambda llm: llm.intermediate_size,
}
_WEIGHTS = (".safetensors", ".bin")
#: Any of these makes a tokenizer.
_TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


def check_sources(recipe: Recipe, *, ask_hub: bool) -> Found:
    """Say where pretrained modules and the tokenizer come from.

    Args:
        recipe: resolved.
        ask_hub: ask the Hugging Face hub for what is neither a folder nor in its cache.

    Raises:
        UserError: a source is not there, holds nothing of use, or has another shape than the recipe
            states.
    """
    named = {
        "model.llm.source": recipe.model.llm.source,
        "model.vision.source": recipe.model.vision.source,
        "tokenizer.source": recipe.tokenizer.source,
    }
    details, warnings = list[str](), list[str]()
    for setting, source in named.items():
        if source is None:
            continue
        is_warning, said = _look(recipe, setting, source, ask_hub)
        details.append(f"{setting.removesuffix('.source')} from {source}")
        if said:
            (warnings if is_warning else details).append(said)
    return Found(", ".join(details) or "none are named", tuple(warnings))


def _look(recipe: Recipe, setting: str, source: str, ask_hub: bool) -> tuple[bool, str]:
    """Return whether what is said is a warning, and what is said of a source."""
    path = Path(source).expanduser()
    if path.is_dir():
        files = sorted(file.name for file in path.iterdir())
        config = path / "config.json"
        _check(recipe, setting, source, files, config if config.is_file() else None)
        return False, ""
    if path.is_file():  # a tower may be one file
        return False, ""
    if path.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1:
        if not backend_of(recipe).here:
            return True, f"{setting}: {source} is not on this machine; the jobs must see it"
        raise UserError(
            "there is no such folder",
            code="VT-USE-214",
            where=f"{setting}: {source}",
            remedy="correct the path, or give the name of a hub repository",
        )
    return _look_on_hub(recipe, setting, source, ask_hub)


def _look_on_hub(recipe: Recipe, setting: str, source: str, ask_hub: bool) -> tuple[bool, str]:
    """Look for a repository in the hub's cache, then on the hub."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    from vita_train.data.catalogue.entry import Hub
    from vita_train.data.fetch.hub import endpoint, resolve_hub

    where = f"{setting}: {source}"
    try:
        cached = try_to_load_from_cache(source, "config.json")
    except HFValidationError as error:
        raise UserError(
            "is neither a folder nor the name of a hub repository",
            code="VT-USE-215",
            where=where,
            remedy="give a folder, or a name such as Qwen/Qwen2.5-7B-Instruct",
        ) from error
    if isinstance(cached, str):
        _check(recipe, setting, source, [], Path(cached))
        return False, "in the hub's cache"
    if not ask_hub or "/" not in source:  # the hub's oldest repositories have no owner
        return False, "from the hub"
    try:
        found, _ = resolve_hub(Hub(repo=source, type="model"), {}, ())
        files = [file.path for file in found]
        config = None
        if "config.json" in files:
            config = Path(hf_hub_download(source, "config.json", endpoint=endpoint()))
    except UserError as error:
        raise UserError(error.what, code=error.code, where=where, remedy=error.remedy) from error
    except (StorageError, OSError) as error:
        return True, f"{where} could not be checked; {' '.join(str(error).split())}"
    _check(recipe, setting, source, files, config)
    return False, "found on the hub"


def _check(
    recipe: Recipe, setting: str, source: str, files: list[str], config: Path | None
) -> None:
    """Hold a source's files and configuration against the recipe; an empty list of files is one
    that is not known.

    Raises:
        UserError: files are missing, or the shape is another.
    """
    where = f"{setting}: {source}"
    if setting == "tokenizer.source":
        lacks = "" if not files or set(files) & {*_TOKENIZER} else "a tokenizer"
    else:
        lacks = "" if not files or any(f.endswith(_WEIGHTS) for f in files) else "weights"
    if not lacks and setting == "model.llm.source" and config is None:
        lacks = "config.json"
    if lacks:
        raise UserError(
            f"holds no {lacks}",
            code="VT-USE-216",
            where=where,
            remedy="give the folder or repository that transformers loads it from",
        )
    if setting == "model.llm.source" and config is not None:
        _check_shape(recipe.model.llm, config, where)


def _check_shape(llm: LlmSpec, config: Path, where: str) -> None:
    try:
        values = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"its config.json cannot be read: {error}",
            code="VT-USE-217",
            where=where,
            remedy="fetch it again",
        ) from error
    wrong = [
        f"{name} is {values[name]} there and {wanted(llm)} in the recipe"
        for name, wanted in _LLM.items()
        if isinstance(values, dict) and name in values and values[name] != wanted(llm)
    ]
    if wrong:
        raise UserError(
            "; ".join(wrong),
            code="VT-USE-218",
            where=where,
            remedy="set model.llm to the shape of the source",
        )
