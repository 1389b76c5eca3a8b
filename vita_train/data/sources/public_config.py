"""From the public trainer's data configuration to a registry."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vita_train.compat.vita.dataset_config import (
    CHAT_PATH,
    PublicConfig,
    PublicDataset,
    check_required_keys,
)
from vita_train.data.sources.registry import AUDIO_ROOT, AudioLimits, Dataset, Registry, SplitSource
from vita_train.data.sources.splitting import TRAIN
from vita_train.errors import UserError
from vita_train.recipe.tasks import TASK_KINDS

#: What in the name of a dataset, its file or its stage tells its task kind; the first that is found
#: counts.
KINDS: tuple[tuple[str, str], ...] = (
    (r"neg(ative)?(?![a-z])|noise|not_?addressed", "negative"),
    (r"tts|text_?to_?speech", "tts"),
    (r"asr|librispeech|libritts|aishell|wenet|gigaspeech|transcri", "asr"),
    (r"audio_?qa|speech_?qa|spoken|voice_?chat|audio_?chat", "speech_qa"),
    (
        r"cap(tion)?s?(?![a-z])|naturalcap|sharegpt4v|cc3m|cc12m|wukong|laion|coco|allava_?cap",
        "caption",
    ),
    (r"vqa|qa(?![a-z])|gqa|ocr|chart|doc|scienceqa|sqa|llava|instruct|visual_?genome|mix665", "qa"),
    (r"sharegpt|dialog|multi_?turn|conversation", "dialogue"),
    (r"text|alpaca|flan|ultrachat", "instruct"),
)


@dataclass
class ImportedConfig:
    """What was made of a configuration."""

    registry: Registry
    inferred: dict[str, str] = field(default_factory=dict)
    """Dataset to what told its kind: a word of the table, or ``--kind``."""
    notes: list[str] = field(default_factory=list)


def to_registry(
    config: PublicConfig,
    *,
    kinds: Mapping[str, str] | None = None,
    image_folder: str | None = None,
    audio_segment: bool = False,
    base: Path | None = None,
) -> ImportedConfig:
    """Return the registry of a configuration.

    Args:
        config: the configuration.
        kinds: task kinds of datasets by name; the others are inferred from `KINDS`.
        image_folder: takes the place of every root but that of audio.
        audio_segment: look for audio in ``AudioFolder/audio``, as the public code does.
        base: where relative paths start; the working folder if none, as for the public trainer.

    Raises:
        UserError: a path is empty, a kind is unknown or cannot be inferred; all of them are named.
    """
    kinds, base = kinds or {}, (base or Path.cwd()).resolve()
    _refuse_empty(config, image_folder)
    for name, kind in kinds.items():
        if name not in config.datasets:
            raise UserError(
                f"--kind names {name!r}, which is no dataset",
                code="VT-USE-169",
                where=config.where,
                remedy=f"datasets are {', '.join(config.datasets)}",
            )
        if kind not in TASK_KINDS:
            raise UserError(
                f"there is no task kind {kind!r}",
                code="VT-USE-170",
                where=f"--kind {name}",
                remedy=f"kinds are {', '.join(TASK_KINDS)}",
            )
    result = ImportedConfig(Registry(datasets={}))
    datasets, unknown = {}, []
    for name, entry in config.datasets.items():
        kind, why = (kinds[name], "--kind") if name in kinds else infer_kind(entry, config)
        if not kind:
            unknown.append(name)
            continue
        result.inferred[name] = f"{kind} ({why})"
        datasets[name] = Dataset(
            task=kind,
            adapter="vita",
            ratio=entry.ratio,
            splits={TRAIN: _source(entry, config, image_folder, audio_segment, base)},
        )
    if unknown:
        raise UserError(
            f"the task kind of {', '.join(unknown)} cannot be told from their names",
            code="VT-USE-171",
            where=config.where,
            remedy="give "
            + " ".join(f"--kind {name}=KIND" for name in unknown)
            + f"; kinds are {', '.join(TASK_KINDS)}",
        )
    if relative := [name for name, entry in config.datasets.items() if not _absolute(entry)]:
        result.notes.append(f"relative paths of {', '.join(relative)} start at {base}")
    special: dict[str, AudioLimits] = {}
    for name, limits in config.audio_special_sets.items():
        # A name of the list may be a dataset, or a set key as those of NoPatchSets are.
        meant = (
            [name]
            if name in datasets
            else [dataset for dataset, entry in config.datasets.items() if name in entry.roots]
        )
        if not meant:
            result.notes.append(f"AudioSpecialSets: {name} is no dataset or set key and left out")
        special |= dict.fromkeys(meant, _limits(name, limits, config))
    result.registry = Registry(
        datasets=datasets,
        groups=_groups(config, result),
        no_tile_sets=list(config.no_patch_sets),
        audio_sets=special,
    )
    return result


def infer_kind(entry: PublicDataset, config: PublicConfig) -> tuple[str, str]:
    """Return the task kind that a dataset's name, file or stage tells, and what told it; empty
    texts where nothing does."""
    stages = [stage for stage, names in config.stages.items() if entry.name in names]
    for text in (entry.name, Path(entry.chat_path).name, *stages):
        for pattern, kind in KINDS:
            found = re.search(pattern, text, re.IGNORECASE)
            if found:
                return kind, f"{found.group()!r} in {text}"
    return "", ""


def _refuse_empty(config: PublicConfig, image_folder: str | None) -> None:
    empty = check_required_keys(config)
    if image_folder is not None:  # which takes the place of their roots
        empty = [line for line in empty if f".{CHAT_PATH} " in line or f".{AUDIO_ROOT} " in line]
    if empty:
        raise UserError(
            "\n  ".join(["has empty paths", *empty]),
            code="VT-USE-172",
            where=config.where,
            remedy="fill them in, or take the keys out; --image_folder stands for all image roots",
        )


def _source(
    entry: PublicDataset,
    config: PublicConfig,
    image_folder: str | None,
    audio_segment: bool,
    base: Path,
) -> SplitSource:
    roots = {key: root or config.folders.get(key, "") for key, root in entry.roots.items()}
    own = [key for key in roots if key != AUDIO_ROOT]
    for key, root in config.folders.items():
        if root:
            roots.setdefault(key, root)
    if image_folder is not None:
        roots = {key: root if key == AUDIO_ROOT else image_folder for key, root in roots.items()}
        own = own or [key for key in roots if key != AUDIO_ROOT] or ["image"]
        roots.setdefault(own[0], image_folder)
    if config.audio_folder:
        folder = f"{config.audio_folder}/audio" if audio_segment else config.audio_folder
        roots.setdefault(AUDIO_ROOT, folder)
    return SplitSource(
        records=str(base / entry.chat_path),
        roots={key: str(base / root) for key, root in roots.items()},
        default=own[0] if len(own) == 1 else None,
    )


def _groups(config: PublicConfig, result: ImportedConfig) -> dict[str, list[str]]:
    groups = {}
    for name, members in {**config.groups, **config.stages}.items():
        if name in config.datasets:
            result.notes.append(f"group {name} has the name of a dataset and is left out")
        elif not members:
            result.notes.append(f"group {name} is empty and left out")
        else:
            groups[name] = members
    return groups


def _limits(name: str, limits: dict[str, Any], config: PublicConfig) -> AudioLimits:
    try:
        return AudioLimits(**limits)
    except (TypeError, ValueError):
        raise UserError(
            f"AudioSpecialSets[{name!r}] is {limits!r:.80}",
            code="VT-USE-173",
            where=config.where,
            remedy="give min_seconds, max_seconds, resampling and chunk_seconds, or nothing",
        ) from None


def _absolute(entry: PublicDataset) -> bool:
    return all(
        Path(path).is_absolute() for path in (entry.chat_path, *entry.roots.values()) if path
    )
