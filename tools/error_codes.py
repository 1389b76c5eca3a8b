"""Stable codes of errors, and the page that lists them.

    python tools/error_codes.py            # give a code to every error that has none
    python tools/error_codes.py --check    # fail where one has none, or two share one

Each place that makes an error of `vita_train.errors` names its code beside the message:
``DataError("...",
code="VT-DATA-012", ...)``. New ones get the next free number of their kind. A number is never given
again: those that the page in ``docs/reference/errors.md`` once listed count as taken.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reference" / "errors.md"
PACKAGES = ("vita_train", "pipelines", "components")
#: Class to the middle of its codes.
AREAS = {
    "UserError": "USE",
    "RecipeError": "RECIPE",
    "DataError": "DATA",
    "CheckpointError": "WEIGHTS",
    "GateError": "GATE",
    "StorageError": "STORE",
    "MissingKeyError": "STORE",
    "KeyExistsError": "STORE",
    "DamagedError": "STORE",
    "PeerLostError": "PEER",
    "StoppedError": "STOP",
    "VitaError": "FAIL",
}
TITLES = {
    "USE": "Usage",
    "RECIPE": "Recipes",
    "DATA": "Data",
    "WEIGHTS": "Weights and checkpoints",
    "GATE": "Gates",
    "STORE": "Stores",
    "PEER": "Other ranks",
    "STOP": "Stopped",
    "FAIL": "Failures",
}
_CODE = re.compile(r"VT-([A-Z]+)-(\d{3})")
#: A line of the page: code, area, message, file.
_ROW = re.compile(r"^\| `(VT-([A-Z]+)-\d{3})` \| (.*?) \| .*? \| `([^`]+)` \|$", re.MULTILINE)


@dataclass(frozen=True)
class Site:
    """A place that makes an error."""

    path: Path
    line: int
    area: str
    code: str
    """Empty where it has none; ``=`` where it hands on another error's."""
    what: str
    remedy: str
    insert: int
    """Offset in the file's bytes where a code can be written."""
    argument: str
    """What to write there, but for a code of its own."""


def sites() -> list[Site]:
    """Return every place that makes an error, in the order of files and lines."""
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            found += list(_sites(path))
    return found


def _sites(path: Path) -> Iterator[Site]:
    source = path.read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    tree = ast.parse(source)
    caught = _caught(tree)
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and node.args and (area := _area(node.func))):
            continue
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        code, given = "", keywords.get("code")
        if given is not None:
            code = given.value if isinstance(given, ast.Constant) and given.value else "="
        first, handed_on = node.args[0], ""
        if isinstance(first, ast.Attribute) and first.attr == "what" and id(node) in caught:
            handed_on = f"{ast.unparse(first.value)}.code"
        end = starts[(first.end_lineno or 1) - 1] + (first.end_col_offset or 0)
        while source[end : end + 1] not in (b",", b")"):  # behind a parenthesis around the message
            end += 1
        last = starts[(node.end_lineno or 1) - 1] + (node.end_col_offset or 0) - 1
        if source[end : end + 1] == b")" and end != last:
            end += 1
        yield Site(
            path,
            node.lineno,
            area,
            str(code),
            _template(first),
            _template(keywords["remedy"]) if "remedy" in keywords else "",
            end,
            handed_on,
        )


def _area(made: ast.expr) -> str:
    """Return the area of an error's class; empty where something else is called.

    A class that is chosen by an exit code counts as the base of all.
    """
    if isinstance(made, ast.Name):
        return AREAS.get(made.id, "")
    if isinstance(made, ast.Subscript | ast.Call) and "CLASS_OF_EXIT" in ast.unparse(made):
        return AREAS["VitaError"]
    return ""


def _caught(tree: ast.AST) -> set[int]:
    """Return the ids of all nodes below a handler of these errors: what is raised there may hand
    one on."""
    handlers = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler)
        and node.type
        and any(isinstance(name, ast.Name) and name.id in AREAS for name in ast.walk(node.type))
    ]
    return {id(below) for handler in handlers for below in ast.walk(handler)}


def _template(node: ast.expr) -> str:
    """Return a message with dots where something is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values
        )
    if isinstance(node, ast.BinOp):
        return _template(node.left) + _template(node.right)
    if isinstance(node, ast.BoolOp):
        return _template(node.values[-1])
    if isinstance(node, ast.IfExp):
        return f"{_template(node.body)} / {_template(node.orelse)}"
    return "…"


def cell(text: str) -> str:
    """Return a text as a cell of the page's tables."""
    return re.sub(r"([<|*_])", r"\\\1", " ".join(text.split()))


def number(found: list[Site]) -> int:
    """Write codes where there are none and return how many.

    A message that the page lists for this file, and that no longer stands there with its code, gets
    that code back: so branches that are merged agree.
    """
    taken: Counter[str] = Counter()
    listed = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    present = {site.code for site in found}
    former: dict[tuple[str, str, str], list[str]] = {}
    for code, area, what, path in _ROW.findall(listed):
        if code not in present:
            former.setdefault((area, what, path), []).append(code)
    for area, digits in [
        *_CODE.findall(listed),
        *(match for site in found for match in _CODE.findall(site.code)),
    ]:
        taken[area] = max(taken[area], int(digits))
    edits: dict[Path, list[tuple[int, str]]] = {}
    for site in sorted(found, key=lambda site: (str(site.path), site.insert)):
        if site.code:
            continue
        argument = site.argument
        again = former.get((site.area, cell(site.what), str(site.path.relative_to(ROOT))))
        if not argument and again:
            argument = f'"{again.pop(0)}"'
        elif not argument:
            taken[site.area] += 1
            argument = f'"VT-{site.area}-{taken[site.area]:03d}"'
        edits.setdefault(site.path, []).append((site.insert, f", code={argument}"))
    for path, changes in edits.items():
        source = path.read_bytes()
        for offset, text in sorted(changes, reverse=True):
            source = source[:offset] + text.encode() + source[offset:]
        path.write_bytes(source)
    return sum(map(len, edits.values()))


def problems(found: list[Site]) -> list[str]:
    """Return what is wrong with the codes."""
    wrong = [
        f"{site.path.relative_to(ROOT)}:{site.line}: an error without a code; run python "
        f"tools/error_codes.py"
        for site in found
        if not site.code
    ]
    counts = Counter(site.code for site in found if site.code and site.code != "=")
    wrong += [
        f"{site.path.relative_to(ROOT)}:{site.line}: {site.code} is the code of another error too"
        for site in found
        if counts[site.code] > 1
    ]
    wrong += [
        f"{site.path.relative_to(ROOT)}:{site.line}: {site.code} is no code of this kind of error"
        for site in found
        if site.code not in ("", "=") and not site.code.startswith(f"VT-{site.area}-")
    ]
    return wrong


def main() -> int:
    """Write or check the codes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    found = sites()
    if parser.parse_args().check:
        wrong = problems(found)
        print("\n".join(wrong) or f"{len(found)} errors, each with a code of its own")
        return 1 if wrong else 0
    print(f"{number(found)} codes written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
