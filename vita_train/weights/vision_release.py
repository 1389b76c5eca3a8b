"""Weights of pretrained vision towers, in the tensor names of their releases or in those of
transformers."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from vita_train.errors import CheckpointError
from vita_train.models.loading import check_finite_tensors, prefix_remedy
from vita_train.recipe.tower import TOWERS, ReleaseNames, TowerSpec, is_unused
from vita_train.weights.formats.release_config import description_faults
from vita_train.weights.formats.tensor_locations import placed
from vita_train.weights.source import open_weights, weight_files

#: Differences listed one by one; the rest is counted.
_MOST_LISTED = 20


def read_tower(source: str, spec: TowerSpec, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a tower's ``model`` from a directory, file or hub name.

    Names may carry a prefix that ends in ``vision_tower.``, ``vision_model.`` or ``visual.``; what
    lies outside it belongs to other parts and is left alone.

    Args:
        source: where the weights are.
        spec: the tower.
        wanted: the tensors that ``model`` has.

    Raises:
        CheckpointError: no file is found, or tensors are missing, unexpected or of another shape;
            all are named.
    """
    names = TOWERS[spec.kind].release
    files = weight_files(source)
    opened = [open_weights(path) for path in files]
    # Asked of all files together: a shard of a larger model may hold nothing of the tower
    inside = any(
        marker in name for tensors in opened for name in tensors for marker in names.markers
    )
    found: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    problems = description_faults(files[0].parent, spec)
    original = _original_names(wanted, names)
    for tensors in opened:
        for stored, read in tensors.items():
            name = _renamed(stored, names, inside)
            name = original.get(name, name) if name else None
            if name is None or is_unused(name, spec):
                continue
            for ours, tensor in _split(name, read()).items():
                problems += [f"{stored} is stored twice"] if ours in found else []
                found[ours], origin[ours] = tensor, stored
    problems += _differences(found, origin, wanted)
    if problems:
        # The same may be said of query, key and value, which are one tensor there
        listed = list(dict.fromkeys(problems))
        more = f"; and {len(listed) - _MOST_LISTED} more" if len(listed) > _MOST_LISTED else ""
        raise CheckpointError(
            f"the weights are not those of the recipe's {spec.kind} tower: "
            f"{'; '.join(listed[:_MOST_LISTED])}{more}",
            code="VT-WEIGHTS-082",
            where=source,
            remedy=_remedy(found, wanted),
        )
    check_finite_tensors({origin[name]: tensor for name, tensor in found.items()}, where=source)
    return found


def _remedy(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    prefixed = prefix_remedy(
        [name for name in wanted if name not in found],
        [name for name in found if name not in wanted],
    )
    return prefixed or "set model.vision to the kind and shape of the source"


def _differences(
    found: Mapping[str, Tensor], origin: Mapping[str, str], wanted: Mapping[str, Tensor]
) -> list[str]:
    missing = [
        f"{name} {_shape(tensor)} is missing"
        for name, tensor in wanted.items()
        if name not in found
    ]
    unexpected = [
        f"{origin[name]} {_shape(tensor)} is not part of the tower"
        for name, tensor in found.items()
        if name not in wanted
    ]
    reshaped = [
        f"{origin[name]} is {_shape(tensor)} there and {_shape(wanted[name])} in the recipe"
        for name, tensor in found.items()
        if name in wanted and tensor.shape != wanted[name].shape
    ]
    return [*reshaped, *unexpected, *missing]


def _original_names(wanted: Mapping[str, Tensor], names: ReleaseNames) -> dict[str, str]:
    """Return our names by those of the release's second naming; query, key and value as ``qkv``,
    which is split."""
    places = {name: placed("", names.rules, f"model.{name}") for name in wanted}
    return {
        place.name: re.sub(r"\.[qkv]_proj\.", ".qkv.", name)
        for name, place in places.items()
        if place
    }


def _renamed(name: str, names: ReleaseNames, inside: bool) -> str | None:
    """Return our name of a stored tensor, or None if it belongs to another part of a larger
    model."""
    if inside:
        ends = [name.rfind(marker) + len(marker) for marker in names.markers if marker in name]
        if not ends:
            return None
        name = name[max(ends) :]
    for pattern, replacement in names.renamed:
        name = re.sub(pattern, replacement, name)
    return name


def _split(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Return a tensor by name; the fused query, key and value of the first InternViT as three."""
    if ".attention.qkv." not in name or tensor.ndim == 0:
        return {name: tensor}
    parts = zip("qkv", tensor.chunk(3), strict=False)  # too few parts are told as missing
    return {name.replace(".qkv.", f".{letter}_proj."): part for letter, part in parts}


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
