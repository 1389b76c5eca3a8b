"""Safetensors files into modules: everything is compared first, then everything is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from vita_train.errors import CheckpointError
from vita_train.models.loading import check_finite_tensors, prefix_remedy
from vita_train.runs.manifest import Manifest
from vita_train.weights.header import TensorInfo, read_header
from vita_train.weights.stream import ALIGNMENT

Files = Path | Sequence[Path]

#: Differences listed one by one; the rest is counted.
_MOST_LISTED = 20


@dataclass(frozen=True)
class Loaded:
    """What one module took from its files."""

    files: tuple[Path, ...]
    tensors: int
    parameters: int
    """Elements, buffers included."""


@dataclass
class LoadReport:
    """What was loaded, by module."""

    modules: dict[str, Loaded] = field(default_factory=dict)


def load_modules(
    modules: nn.ModuleDict | Mapping[str, nn.Module],
    source: Mapping[str, Files] | Manifest,
    *,
    endpoint: str | None = None,
    mapped: bool = False,
) -> LoadReport:
    """Load every one of ``modules`` from its files, or none at all.

    Floating tensors take the type the module has. A tensor stored under both names of a tied pair
    is accepted if the shapes agree.

    Args:
        modules: the modules to fill; leave out those that are to keep their first weights.
        source: files of each module, or the manifest of the stage that wrote them.
        endpoint: of the S3 store that the manifest names, when it is not AWS.
        mapped: parameters on the CPU become views of their files where type and alignment are
            right, as in all files that are written here, so that a model larger than the memory can
            be used. Writing to them changes no file. The files may be replaced or deleted while the
            modules live, but not changed in place.

    Raises:
        CheckpointError: a module has no files, a file is refused, or tensors are missing,
            unexpected or of another shape or kind. All differences of all modules are reported at
            once, before anything is changed. Or values are not finite, which shows when they have
            been read.
    """
    files = (
        _manifest_files(source, endpoint, list(modules)) if isinstance(source, Manifest) else source
    )
    plans, paths = check_modules(modules, files)
    report = LoadReport()
    for name, plan in plans.items():
        targets = modules[name].state_dict()
        _fill(targets, plan, paths[name], dict(modules[name].named_parameters()) if mapped else {})
        if not mapped:  # which is for looking at a model, larger than the memory perhaps
            check_finite_tensors(
                {f"{name}.{key}": targets[key] for key in plan},
                where=", ".join(map(str, paths[name])),
            )
        report.modules[name] = Loaded(
            paths[name], len(plan), sum(targets[key].numel() for key in plan)
        )
    return report


def check_modules(
    modules: nn.ModuleDict | Mapping[str, nn.Module], files: Mapping[str, Files]
) -> tuple[dict[str, dict[str, tuple[Path, str]]], dict[str, tuple[Path, ...]]]:
    """Compare modules, which may be on the meta device, with the headers of their files.

    Returns:
        {module: {tensor: (file, name there)}} and {module: files}.

    Raises:
        CheckpointError: as `load_modules` says.
    """
    problems: list[str] = []
    remedies: list[str] = []
    plans: dict[str, dict[str, tuple[Path, str]]] = {}
    paths: dict[str, tuple[Path, ...]] = {}
    for name, module in modules.items():
        if name not in files:
            problems.append(f"{name}: there are no weights for this module")
            continue
        given = files[name]
        paths[name] = (
            (Path(given),)
            if isinstance(given, (str, Path))
            else tuple(Path(path) for path in given)
        )
        plans[name], found, remedy = _compare(name, module, paths[name])
        problems += found
        remedies += [f"{name}: {remedy}"] if remedy else []
    if problems:
        listed = "; ".join(problems[:_MOST_LISTED])
        more = f"; and {len(problems) - _MOST_LISTED} more" if len(problems) > _MOST_LISTED else ""
        raise CheckpointError(
            f"the weights do not fit the model, nothing was loaded: {listed}{more}",
            code="VT-WEIGHTS-062",
            remedy="; ".join(remedies)
            or "use the recipe the weights were trained with, or train the module anew",
        )
    return plans, paths


def _manifest_files(
    manifest: Manifest, endpoint: str | None, names: list[str]
) -> dict[str, tuple[Path, ...]]:
    from vita_train.storage.cache import fetch_file

    return {
        name: tuple(fetch_file(file, endpoint=endpoint) for file in manifest.modules[name].files)
        for name in names
        if name in manifest.modules
    }


def _compare(
    name: str, module: nn.Module, paths: tuple[Path, ...]
) -> tuple[dict[str, tuple[Path, str]], list[str], str]:
    """Return {tensor of the module: (file, name there)}, the differences, and a remedy where one is
    known."""
    stored: dict[str, tuple[Path, TensorInfo]] = {}
    problems = []
    for path in paths:
        for key, info in read_header(path).items():
            if key in stored:
                problems.append(f"{name}: {key} is stored twice")
            stored[key] = (path, info)
    wanted = module.state_dict()
    first = first_names(module)
    plan: dict[str, tuple[Path, str]] = {}
    for key, (path, info) in stored.items():
        if key not in wanted:
            problems.append(f"{name}: {key} {_shape(info.shape)} is not part of the model")
            continue
        target, there = wanted[key], _shape(info.shape)
        if tuple(target.shape) != info.shape:
            problems.append(
                f"{name}: {key} is {there} in the file and {_shape(target.shape)} in the model"
            )
        elif target.is_floating_point() != info.floating:
            problems.append(
                f"{name}: {key} is {info.dtype} in the file and {target.dtype} in the model"
            )
        # Of a pair that is stored under both names the first one counts
        plan.setdefault(first.get(key, key), (path, key))
    missing = sorted({first.get(key, key) for key in wanted} - set(plan))
    problems += [
        f"{name}: {key} {_shape(wanted[key].shape)} is missing from the file" for key in missing
    ]
    return plan, problems, prefix_remedy(missing, [key for key in stored if key not in wanted])


def first_names(module: nn.Module) -> dict[str, str]:
    """Return the name under which each tied parameter is written, for all of its names."""
    first: dict[int, str] = {}
    return {
        name: first.setdefault(id(parameter), name)
        for name, parameter in module.named_parameters(remove_duplicate=False)
    }


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


@torch.no_grad()
def _fill(
    targets: dict[str, Tensor],
    plan: dict[str, tuple[Path, str]],
    paths: tuple[Path, ...],
    mapped: Mapping[str, nn.Parameter],
) -> None:
    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                for key, stored in (
                    (key, stored) for key, (place, stored) in plan.items() if place == path
                ):
                    tensor = file.get_tensor(stored)
                    if key in mapped:
                        # A copy only where the type is another; else it stays a view of the mapped
                        # file
                        data = tensor.to(mapped[key].dtype)
                        # Elsewhere it would give other last bits than the model that was trained.
                        mapped[key].data = (
                            data if data.data_ptr() % ALIGNMENT == 0 else data.clone()
                        )
                    else:
                        targets[key].copy_(tensor)
        except SafetensorError as error:
            raise CheckpointError(
                f"cannot be read: {error}",
                code="VT-WEIGHTS-063",
                where=str(path),
                remedy="write the file again",
            ) from error
