"""The shipped recipes, one YAML file each; the comment on the first line says what it is for."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent


def preset_names() -> list[str]:
    """Return the names of the shipped recipes, sorted."""
    return sorted(path.stem for path in _HERE.glob("*.yaml"))


def preset_path(name: str) -> Path | None:
    """Return the file of a shipped recipe, or None if there is none by that name."""
    return _HERE / f"{name}.yaml" if name in preset_names() else None


def describe_presets() -> dict[str, str]:
    """Return each shipped recipe's name with the sentence its file opens with."""
    return {name: _first_comment(_HERE / f"{name}.yaml") for name in preset_names()}


def _first_comment(path: Path) -> str:
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""
