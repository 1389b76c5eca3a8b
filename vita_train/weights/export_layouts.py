"""The layouts that a finished model can be written in, declared without torch.

Each of the package's own is a module of ``vita_train/weights/formats``, found there; ``own`` alone
stands below. A package outside this one adds a layout by calling `register_export_layout` from its
plugin (`vita_train.plugins`).
"""

from __future__ import annotations

from dataclasses import dataclass

from vita_train.plugins import Registry


@dataclass(frozen=True)
class ExportLayout:
    """One layout."""

    name: str
    """As ``vita-train model export --to`` has it."""
    about: str
    """What it is for, in a few words."""
    implementation: str
    """``package.module:function``, called as ``write(modules, recipe, corpus_dir, out)``: writes
    the directory ``out`` and checks that what it wrote loads back to the same model. The modules
    are those of `vita_train.weights.export.load_run`, left in their files."""
    keeps_types: tuple[str, ...] = ()
    """Modules that it is given in the types they were stored in, not in the recipe's."""
    takes_shard_size: bool = False
    """Whether it is also given ``shard_bytes``, above which a file of weights is split."""
    takes_run: bool = False
    """Whether it is called as ``write(run, out)`` instead, and chooses itself what of the run it
    writes."""


EXPORT_LAYOUTS: Registry[ExportLayout] = Registry("export layout", "vita_train.weights.formats.*")


def register_export_layout(layout: ExportLayout) -> None:
    """Add a layout.

    Raises:
        VitaError: its name is taken.
    """
    EXPORT_LAYOUTS.add(layout.name, layout)


register_export_layout(
    ExportLayout("own", "runs by itself", "vita_train.weights.export:export_model")
)
