"""Conversation templates: how turns are laid out, as data."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from pydantic import ValidationError, model_validator

from vita_train.errors import RecipeError
from vita_train.recipe.base import Strict
from vita_train.recipe.yaml_tree import parse_yaml


class Piece(Strict):
    """A control token or a text of the layout."""

    token: str | None = None
    text: str | None = None

    @model_validator(mode="after")
    def _one(self) -> Piece:
        if (self.token is None) == (self.text is None):
            raise ValueError("a piece is either token or text")
        return self


class Around(Strict):
    """What stands before and after a text."""

    before: tuple[Piece, ...] = ()
    after: tuple[Piece, ...] = ()


class Reply(Around):
    """What stands around an answer. ``after`` is left out behind the last one."""

    end: str = ""
    """Control token that ends an answer; supervised. Empty where ``end_text`` ends it."""
    end_text: str = ""
    """Ordinary text behind an answer, before ``end``; supervised."""
    stop: tuple[str, ...] = ()
    """Further control tokens that end an answer when the model writes one; never trained on."""

    @model_validator(mode="after")
    def _ends(self) -> Reply:
        if not self.end and not self.end_text:
            raise ValueError("an answer ends with end, end_text or both")
        return self


class Layout(Strict):
    """Pieces around each kind of text."""

    system: Around
    human: Around
    gpt: Reply
    first_human: Around | None = None
    """Pieces around the first human turn, where they differ: the system text may stand inside that
    turn."""
    media_only: bool = False
    """A human turn is its media and nothing else, and a conversation has one question and one
    answer: captions without a question."""

    @property
    def parts(self) -> tuple[Around, ...]:
        """Everything there is."""
        return self.system, self.human, self.gpt, *((self.first_human,) if self.first_human else ())


class SystemTexts(Strict):
    """System text by what the conversation holds."""

    image: str
    video: str
    language: str


class Template(Strict):
    """A conversation template."""

    name: str
    system: SystemTexts
    layout: Layout

    @property
    def control_tokens(self) -> tuple[str, ...]:
        """Every control token the layout uses, in order of first use."""
        pieces = [piece for part in self.layout.parts for piece in (*part.before, *part.after)]
        return tuple(
            dict.fromkeys([*(piece.token for piece in pieces if piece.token), *self.stop_tokens])
        )

    @property
    def stop_tokens(self) -> tuple[str, ...]:
        """Control tokens at which the model's answer ends."""
        return tuple(token for token in (self.layout.gpt.end, *self.layout.gpt.stop) if token)


def template_names() -> list[str]:
    """Return the names of the shipped templates."""
    names = [entry.name for entry in resources.files(__name__).iterdir()]
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def load_template(name: str) -> Template:
    """Return a shipped template by name, or the one in a file.

    Raises:
        RecipeError: there is none of that name, or the file is not a template.
    """
    if name in template_names():
        text = (resources.files(__name__) / f"{name}.yaml").read_text(encoding="utf-8")
    else:
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(
                f"no template {name!r}",
                code="VT-RECIPE-009",
                where="data.template",
                remedy=f"use {', '.join(template_names())} or the path of a template file",
            ) from error
    try:
        return Template.model_validate(parse_yaml(text, name).value)
    except ValidationError as error:
        first = error.errors()[0]
        raise RecipeError(
            f"template is not valid: {'.'.join(str(part) for part in first['loc'])}: "
            f"{first['msg']}",
            code="VT-RECIPE-010",
            where=name,
            remedy="compare it with the shipped qwen2p5_instruct",
        ) from error
