"""Optional packages that a recipe needs, in the environment that will run it."""

from __future__ import annotations

import importlib.util
from typing import NamedTuple

from vita_train.errors import UserError
from vita_train.launch.stage import backend_of
from vita_train.recipe.schema import Recipe


class Need(NamedTuple):
    """A package that a setting asks for."""

    package: str
    """As it is imported."""
    where: str
    """The setting."""
    remedy: str


def needed_packages(recipe: Recipe) -> list[Need]:
    """Return the optional packages that training of a recipe needs, each once."""
    needs = []
    if recipe.tracking.wandb_project is not None:
        needs.append(Need("wandb", "tracking.wandb_project", "pip install 'vita-train[tracking]'"))
    for name in ("llm", "vision"):
        if getattr(recipe.model, name).attention == "flash":
            setting = f"model.{name}.attention"
            needs.append(Need("flash_attn", setting, "pip install 'vita-train[gpu]'"))
    for stage, spec in recipe.stages.items():
        if spec.optim.kind == "adamw_8bit":
            needs.append(
                Need("bitsandbytes", f"stages.{stage}.optim", "pip install 'vita-train[quant]'")
            )
        if spec.quantize:
            needs.append(
                Need("bitsandbytes", f"stages.{stage}.quantize", "pip install 'vita-train[quant]'")
            )
        if spec.engine.kind == "deepspeed":
            needs.append(
                Need("deepspeed", f"stages.{stage}.engine.kind", "pip install deepspeed (on Linux)")
            )
    return list({need.package: need for need in reversed(needs)}.values())[::-1]


def check_packages(recipe: Recipe, *, here: bool | None = None) -> str:
    """Say which optional packages the recipe needs, and that they are here if it runs here.

    Args:
        recipe: resolved.
        here: whether it runs here, or in this image; as its job backend says where not given.

    Raises:
        UserError: one is missing.
    """
    needs = needed_packages(recipe)
    if not needs:
        return "none are needed"
    names = ", ".join(need.package for need in needs)
    if not (backend_of(recipe).here if here is None else here):
        return f"the image of the jobs must have {names}"
    missing = [need for need in needs if importlib.util.find_spec(need.package) is None]
    if missing:
        raise UserError(
            f"{', '.join(need.package for need in missing)} not installed",
            code="VT-USE-077",
            where=", ".join(need.where for need in missing),
            remedy=f"{'; '.join(need.remedy for need in missing)}; or take the setting out",
        )
    return f"{names} installed"
