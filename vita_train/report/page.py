"""A page with everything inlined, nothing fetched, nothing from the data trusted."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from markupsafe import Markup

from vita_train import __version__
from vita_train.page import page_environment
from vita_train.report import words


def render_page(template: str, **values: Any) -> str:
    """Return a page from one of the templates, which all share style and script."""
    environment = page_environment("vita_train.report")
    environment.filters.update(count=words.count, duration=words.duration, size=words.size)
    folder = files("vita_train.report") / "templates"
    return environment.get_template(template).render(
        version=__version__,
        style=Markup((folder / "style.css").read_text()),
        script=Markup((folder / "script.js").read_text()),
        **values,
    )
