"""The finished model as one directory that runs by itself.

::

    config.json          format and recipe, without places of the machine it was trained on
    template.yaml        conversation template
    tokenizer/           as transformers saves it
    ctc_vocab.json       inventory of the recogniser
    <module>.safetensors one per module, or several above 5 GB
    export.json          size and sha256 of every file, parameters of every module

The directory is written aside, loaded back, compared with the modules it was made of, and only then
given its name.
"""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

import vita_train
from vita_train.errors import CheckpointError
from vita_train.models.build import build_modules, cast_parameters
from vita_train.recipe.data import SynthSource
from vita_train.recipe.model import ModelSpec
from vita_train.recipe.modules import MODULES
from vita_train.recipe.schema import LaunchSpec, Recipe, StorageSpec, TrackingSpec
from vita_train.runs.manifest import PRETRAINED, Manifest, ModuleRef
from vita_train.runs.run import Run
from vita_train.storage.digest import sha256_file
from vita_train.weights.compare import difference
from vita_train.weights.header import read_header
from vita_train.weights.load import load_modules
from vita_train.weights.module_refs import fetched, load_refs
from vita_train.weights.pretrained import EXPORT_FORMAT, EXPORT_MANIFEST, terms_of
from vita_train.weights.save import save_modules
from vita_train.weights.staging import atomic_directory, write_json
from vita_train.weights.stream import DTYPES

#: Modules that training alone needs.
LEFT_OUT = ("discriminators",)


@dataclass(frozen=True)
class Exported:
    """An export, loaded."""

    recipe: Recipe
    """As trained; ``data.template`` is the path of the exported template."""
    modules: nn.ModuleDict
    """In eval mode, parameters of type ``recipe.model.dtype``."""
    tokenizer: Any
    ctc_vocab: Path | None
    """The recogniser's inventory."""

    @property
    def spec(self) -> ModelSpec:
        """What the model is made of."""
        return self.recipe.model


def export_run(run: Run, out: Path) -> list[Path]:
    """Export the newest weights of every module that a run has trained; return the files written.

    Raises:
        CheckpointError: no stage is finished, or weights are damaged.
    """
    export_model(load_run(run), run.recipe, run.present_corpus(media=False), out)
    return sorted(path for path in out.rglob("*") if path.is_file())


def load_run(run: Run, keep_types: Collection[str] = ()) -> nn.ModuleDict:
    """Return the newest weights of every module that a run has trained or imported, but for what
    training alone needs.

    They stay in their files: what is exported may be larger than the memory. Parameters have the
    recipe's type; those of modules in ``keep_types`` the one they were stored in.

    Raises:
        CheckpointError: no stage is finished, or weights are damaged.
    """
    recipe = run.recipe
    manifests = [run.final(stage) for stage in recipe.stages]
    newest = newest_modules([manifest for manifest in manifests if manifest], recipe.stages)
    refs = {name: ref for name, ref in newest.items() if name not in LEFT_OUT}
    if not refs:
        raise CheckpointError(
            "no stage of this run is finished",
            code="VT-WEIGHTS-025",
            where=run.uri(),
            remedy="train at least one stage before exporting",
        )
    heads = {
        name: fetched(ref, recipe.storage.endpoint)
        for name, ref in refs.items()
        if name == "ctc_head"
    }
    # Parts without weights are in no manifest, and still belong to the model
    dtype, weightless = model_dtype(recipe), recipe.model.weightless - set(refs)
    modules = load_refs(
        recipe.model,
        refs,
        ctc_vocab_size=_ctc_vocab_size(heads),
        dtype=dtype,
        endpoint=recipe.storage.endpoint,
        mapped=True,
    )
    for name in (name for name in keep_types if name in refs and refs[name].base is None):
        again = load_refs(
            recipe.model,
            {name: refs[name]},
            dtype=_stored_type(fetched(refs[name], recipe.storage.endpoint)),
            endpoint=recipe.storage.endpoint,
            mapped=True,
        )
        modules.update(dict(again.items()))
    modules.update(dict(build_modules(recipe.model, weightless, dtype=dtype).items()))
    return modules.eval()


def _stored_type(files: Iterable[Path]) -> torch.dtype:
    """Return the type that most of a module's numbers are stored in."""
    sizes: Counter[str] = Counter()
    for path in files:
        for info in read_header(path).values():
            sizes[info.dtype] += math.prod(info.shape) if info.floating else 0
    return DTYPES[sizes.most_common(1)[0][0]]


def newest_modules(manifests: list[Manifest], stages: Iterable[str]) -> dict[str, ModuleRef]:
    """Return each module as the latest stage trained it, in the order of MODULES.

    Args:
        manifests: of finished stages.
        stages: all stages of the recipe, in the order they run.
    """
    newest: dict[str, ModuleRef] = {}
    order = (PRETRAINED, *stages)
    for name, ref in (item for manifest in manifests for item in manifest.modules.items()):
        # A manifest also names what it has not trained, with the stage that did
        if name not in newest or order.index(ref.stage) >= order.index(newest[name].stage):
            newest[name] = ref
    return {name: newest[name] for name in MODULES if name in newest}


def export_model(
    modules: nn.ModuleDict, recipe: Recipe, corpus_dir: Path, out: Path
) -> dict[str, Any]:
    """Write an export and return the content of its ``export.json``.

    Args:
        modules: what is exported; parameters are cast to ``recipe.model.dtype`` in place first.
        recipe: the run's recipe.
        corpus_dir: the prepared corpus, for ``tokenizer/`` and ``ctc_vocab.json``.
        out: directory to make. An earlier export there is replaced; anything else is refused.

    Raises:
        UserError: ``out`` holds something else.
        CheckpointError: what was written does not load back to the same model.
    """
    cast_parameters(modules, model_dtype(recipe)).eval()
    with atomic_directory(out, EXPORT_MANIFEST, "export") as staging_dir:
        summary = _write(modules, recipe, corpus_dir, staging_dir)
        # Still under the staging name: what does not load back never gets the export's
        check_same(modules, load_exported(staging_dir).modules, out)
    return summary


def check_same(modules: nn.ModuleDict, written: nn.ModuleDict, out: Path) -> None:
    """Refuse an export that does not load back to the same tensors and logits.

    Raises:
        CheckpointError: naming the first difference.
    """
    if found := difference(modules, written):
        raise CheckpointError(
            f"what was written is not what was trained: {found}",
            code="VT-WEIGHTS-026",
            where=str(out),
            remedy="look at the disk, then export again",
        )


def load_exported(directory: Path) -> Exported:
    """Load an export, every file checked against ``export.json`` first.

    Raises:
        CheckpointError: it is not an export, or a file is missing, changed or named outside the
            directory.
    """
    directory = Path(directory).absolute()
    summary = _read_json(directory / EXPORT_MANIFEST)
    if summary.get("format") != EXPORT_FORMAT:
        raise CheckpointError(
            "is not an export of this version",
            code="VT-WEIGHTS-027",
            where=str(directory / EXPORT_MANIFEST),
        )
    try:
        listed: dict[str, dict[str, Any]] = dict(summary["files"])
        files = {
            name: tuple(directory / file for file in entry["files"])
            for name, entry in summary["modules"].items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            "is damaged", code="VT-WEIGHTS-028", where=str(directory / EXPORT_MANIFEST)
        ) from error
    for name, entry in listed.items():
        _check(directory, name, entry)
    for path in (path for paths in files.values() for path in paths):
        # A file that is loaded but not listed would have escaped the digests
        if str(path.relative_to(directory)) not in listed:
            raise CheckpointError(
                "is not listed in export.json", code="VT-WEIGHTS-029", where=str(path)
            )
    recipe = _read_recipe(directory)
    modules = build_modules(
        recipe.model,
        files,
        ctc_vocab_size=_ctc_vocab_size(files),
        dtype=model_dtype(recipe),
        empty=True,
    )
    load_modules(modules, files, mapped=True)
    ctc_vocab = directory / "ctc_vocab.json"
    return Exported(
        recipe,
        modules.eval(),
        load_tokenizer(directory / "tokenizer"),
        ctc_vocab if ctc_vocab.is_file() else None,
    )


def _write(modules: nn.ModuleDict, recipe: Recipe, corpus_dir: Path, out: Path) -> dict[str, Any]:
    kept = {name: module for name, module in modules.items() if name not in LEFT_OUT}
    written = save_modules(kept, out)
    copy_tokenizer(corpus_dir, out / "tokenizer")
    if (corpus_dir / "ctc_vocab.json").is_file():
        shutil.copyfile(corpus_dir / "ctc_vocab.json", out / "ctc_vocab.json")
    shutil.copyfile(_template_file(recipe.data.template), out / "template.yaml")
    # Nothing of the machine and the data it was trained with; a recipe needs a source, so it gets
    # one
    neutral = recipe.model_copy(
        update={
            "model": without_sources(recipe.model),
            "weights": {},
            "storage": StorageSpec(),
            "launch": LaunchSpec(),
            "tracking": TrackingSpec(),
            "tokenizer": recipe.tokenizer.model_copy(update={"source": None}),
            "data": recipe.data.model_copy(
                update={"source": {"world": SynthSource()}, "template": "template.yaml"}
            ),
        }
    )
    write_json(out / "config.json", {"format": EXPORT_FORMAT, **neutral.model_dump(mode="json")})
    summary = {
        "format": EXPORT_FORMAT,
        "version": vita_train.__version__,
        "terms": terms_of(recipe),
        "modules": {
            name: {
                "files": [path.name for path in written[name]],
                "parameters": sum(p.numel() for p in kept[name].parameters()),
            }
            for name in kept
        },
        # Last of all: the listing is of everything but export.json itself
        "files": listing(out),
    }
    write_json(out / EXPORT_MANIFEST, summary)
    return summary


def listing(directory: Path) -> dict[str, dict[str, Any]]:
    """Return size and sha256 of every file in a directory, by its path there."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    return {
        path.relative_to(directory).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": sha256_file(path),
        }
        for path in paths
    }


def copy_tokenizer(corpus_dir: Path, folder: Path) -> None:
    """Copy a prepared corpus's tokenizer into a folder.

    Raises:
        CheckpointError: there is none.
    """
    if not (corpus_dir / "tokenizer").is_dir():
        raise CheckpointError(
            "the prepared corpus holds no tokenizer",
            code="VT-WEIGHTS-030",
            where=str(corpus_dir),
            remedy="run step prepare",
        )
    shutil.copytree(corpus_dir / "tokenizer", folder, dirs_exist_ok=True)


def without_sources(model: ModelSpec) -> ModelSpec:
    """Return a specification without the places that its weights came from."""
    return model.model_copy(
        update={
            "llm": model.llm.model_copy(update={"source": None}),
            "vision": model.vision.model_copy(update={"source": None}),
        }
    )


def _check(directory: Path, name: str, entry: Mapping[str, Any]) -> None:
    path = directory / name
    # resolve() follows links: what they lead to counts, not what they are called
    if Path(name).is_absolute() or not path.resolve().is_relative_to(directory.resolve()):
        raise CheckpointError("lies outside the export", code="VT-WEIGHTS-031", where=name)
    if not path.is_file():
        raise CheckpointError("is missing from the export", code="VT-WEIGHTS-032", where=str(path))
    if path.stat().st_size != entry.get("bytes") or sha256_file(path) != entry.get("sha256"):
        raise CheckpointError(
            "was changed after it was exported (size or sha256 differs)",
            code="VT-WEIGHTS-033",
            where=str(path),
            remedy="export or copy it again",
        )


def _read_recipe(directory: Path) -> Recipe:
    config = _read_json(directory / "config.json")
    config.pop("format", None)
    try:
        recipe = Recipe.model_validate(config)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise CheckpointError(
            f"{place}: {first['msg']}", code="VT-WEIGHTS-034", where=str(directory / "config.json")
        ) from error
    template = str(directory / "template.yaml")
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"template": template})})


def _ctc_vocab_size(files: Mapping[str, tuple[Path, ...]]) -> int:
    """The recogniser's outputs, as its weights say."""
    if "ctc_head" not in files:
        return 0
    weight = read_header(files["ctc_head"][0]).get("weight")
    return weight.shape[0] if weight and weight.shape else 0


def _template_file(template: str) -> Path:
    given = Path(template)
    return (
        given
        if given.is_file()
        else Path(vita_train.__file__).parent / "data" / "templates" / f"{template}.yaml"
    )


def load_tokenizer(directory: Path) -> Any:
    """Return transformers' tokenizer of a directory; nothing of it is run.

    Raises:
        CheckpointError: there is none.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            str(directory), local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"no tokenizer can be read: {error}".splitlines()[0],
            code="VT-WEIGHTS-035",
            where=str(directory),
        ) from error


def model_dtype(recipe: Recipe) -> torch.dtype:
    """Return the type that the recipe stores weights in."""
    return torch.bfloat16 if recipe.model.dtype == "bfloat16" else torch.float32


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            "cannot be read",
            code="VT-WEIGHTS-036",
            where=str(path),
            remedy="give the directory of an export",
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError("is not a JSON object", code="VT-WEIGHTS-037", where=str(path))
    return value
