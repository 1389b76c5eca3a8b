"""A command line as the public HfArgumentParser reads it.

``--flag value``, ``--flag=value`` and ``--flag-with-dashes``; booleans as ``--flag``, ``--flag
True`` or, where they are true by default, ``--no_flag``; the last of several counts. Unlike there,
a shortened name is refused.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, NoReturn

from vita_train.compat.vita.flags import FLAGS, RENAMED, Flag, Value
from vita_train.errors import UserError

_TRUE, _FALSE = ("yes", "true", "t", "y", "1"), ("no", "false", "f", "n", "0")
#: Flags that do nothing by themselves, and the flag that makes use of them.
_USED_BY = {
    "audio_prompt_num": "audio_prompt_finetune",
    **dict.fromkeys(("lora_r", "lora_alpha", "lora_dropout", "lora_bias"), "lora_enable"),
}
_KINDS = {int: "a whole number", float: "a number"}


@dataclass(frozen=True)
class Arguments:
    """The value of every argument, and which of them were given."""

    given: dict[str, Value]
    notes: list[str] = field(default_factory=list)
    """Notes for the reader, in order, each once."""

    def __getitem__(self, name: str) -> Any:
        return self.given[name] if name in self.given else FLAGS[name].default

    def shown(self, name: str) -> str:
        """Return an argument as it stands, or would stand, on the command line."""
        value = self[name]
        return f"--{name}" if value is None else f"--{name} {value}"

    def note(self, text: str) -> None:
        """Add a note for the reader, unless it is there already."""
        if text not in self.notes:
            self.notes.append(text)


def parse_arguments(words: Sequence[str]) -> Arguments:
    """Read a command line.

    Raises:
        UserError: a flag is unknown (the nearest known one is named), a value is missing or of
            another kind, or a flag is given under its old and its new name with two values.
    """
    found, left = _parser().parse_known_args(list(words))
    if left:
        raise UserError(
            "; ".join(_unknown(word) for word in left if word.startswith("--"))
            or f"{left[0]!r} belongs to no flag",
            code="VT-USE-015",
            where="train",
            remedy="vita-train train --flags lists them",
        )
    given: dict[str, Value] = {name: value for name, value in vars(found).items() if name in FLAGS}
    arguments = Arguments(given)
    for old in [name for name in vars(found) if name in RENAMED]:
        _rename(arguments, old, getattr(found, old))
    for name, value in given.items():
        flag = FLAGS[name]
        if flag.choices and not any(fnmatchcase(str(value), choice) for choice in flag.choices):
            raise _no_choice(flag, value)
        if flag.note and value != flag.default and not _is_used(arguments, name):
            arguments.note(f"--{name} {flag.note}")
    return arguments


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message.removeprefix("argument "), code="VT-USE-016", where="train")


def _parser() -> _Parser:
    parser = _Parser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for name, flag in FLAGS.items():
        _add(parser, name, flag)
    for old, new in RENAMED.items():
        _add(parser, old, FLAGS[new])
    return parser


def _add(parser: argparse.ArgumentParser, name: str, flag: Flag) -> None:
    names = [f"--{name}", f"--{name.replace('_', '-')}"][: 2 if "_" in name else 1]
    if flag.kind is not bool:
        parser.add_argument(
            *names, dest=name, type=lambda text: _value(text, flag), metavar="VALUE"
        )
        return
    # A boolean that is neither true nor false by default needs its value.
    bare: dict[str, Any] = {} if flag.default is None else {"nargs": "?", "const": True}
    parser.add_argument(*names, dest=name, type=_truth, metavar="VALUE", **bare)
    if flag.default is True:
        parser.add_argument(
            f"--no_{name}", f"--no-{name.replace('_', '-')}", dest=name, action="store_false"
        )


def _value(text: str, flag: Flag) -> Value:
    try:
        return flag.kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not {_KINDS[flag.kind]}") from None


def _truth(text: str) -> bool:
    if text.lower() in (*_TRUE, *_FALSE):
        return text.lower() in _TRUE
    raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")


def _unknown(word: str) -> str:
    name = word.removeprefix("--").partition("=")[0]
    known = {**FLAGS, **RENAMED}
    near = get_close_matches(name.replace("-", "_"), known, n=1, cutoff=0.5)
    return f"unknown flag --{name}" + (f", did you mean --{near[0]}?" if near else "")


def _no_choice(flag: Flag, value: Value) -> UserError:
    near = get_close_matches(str(value), flag.choices, n=1)
    hint = f"did you mean {near[0]}?" if near else f"it is one of {', '.join(flag.choices)}"
    return UserError(
        f"--{flag.name} {value} is not known", code="VT-USE-017", where="train", remedy=hint
    )


def _rename(arguments: Arguments, old: str, value: Value) -> None:
    new = RENAMED[old]
    if new in arguments.given and arguments.given[new] != value:
        raise UserError(
            f"--{old} {value} contradicts {arguments.shown(new)}: they are one flag under two "
            f"names",
            code="VT-USE-018",
            where="train",
            remedy="give one of them",
        )
    arguments.given[new] = value
    arguments.note(f"--{old} is read as --{new}")


def _is_used(arguments: Arguments, name: str) -> bool:
    """Say whether a flag that does nothing by itself stands beside the one that makes use of it."""
    if name in ("quant_type", "double_quant"):
        return arguments["bits"] == 4 or (name == "double_quant" and arguments["bits"] == 8)
    return name in _USED_BY and bool(arguments[_USED_BY[name]])
