"""The small JSON documents that steps hand to each other in place of weights and data.

A manifest names files by URI, size and sha256. A module that a stage did not train is named at the
URI of the stage that did, so nothing is copied and every weight can be traced to the stage, the
recipe and the rows it came from.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field, FiniteFloat

from vita_train.recipe.base import Strict
from vita_train.storage.base import FileRef

#: Key of a model manifest's lineage with the digest of the pipeline's step that made it.
STEP_DIGEST = "step_digest"
#: Environment variable of a stage's ranks: digest of the pipeline's step that started them, if one
#: did.
STEP_DIGEST_VARIABLE = "VITA_TRAIN_STEP_DIGEST"
#: What stands for the stage of a module whose weights came from outside the run.
PRETRAINED = "pretrained"


class ModuleRef(Strict):
    """The weights of one module (a safetensors file, or several for a large one), or an adapter
    over others."""

    stage: str
    """Stage that trained or imported it, or `PRETRAINED`."""
    files: tuple[FileRef, ...]
    """Of an adapter, its ``adapter_config.json`` and ``adapter_model.safetensors``."""
    base: ModuleRef | Literal["source"] | None = None
    """What an adapter belongs to: the weights of a stage before, or the pretrained source that the
    recipe names. None for weights that are whole."""


class Manifest(Strict):
    """What a finished step hands on; stored as ``final.json`` under its step."""

    format: Literal["vita-train/manifest/v1"] = "vita-train/manifest/v1"
    kind: Literal["data", "prepared", "preflight", "model", "evaluation", "export", "report"]
    run: str
    stage: str
    """Stage id, or step name such as ``data_fetch``."""
    digest: str
    """Digest of everything that determines the result; the same digest means the same step."""
    modules: dict[str, ModuleRef] = {}
    files: dict[str, FileRef] = {}
    metrics: dict[str, FiniteFloat] = {}
    lineage: dict[str, Any] = Field(default_factory=dict)
    """Recipe digest, code version, input manifests' digests, trained parameter names and counts,
    sample range."""


def content_of(prepared: Manifest, datasets: Iterable[str]) -> dict[str, str]:
    """Return the digest of what each dataset holds for training, as the preparation noted it in its
    lineage.

    Preparing again for another reason (a stage's longer rows, one more dataset) leaves it as it
    was, so that stages already trained on the same rows stay done.
    """
    contents = prepared.lineage.get("content", {})
    return {name: contents.get(name, prepared.digest) for name in sorted(datasets)}
