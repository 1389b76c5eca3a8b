"""Former keys of a recipe are refused with their new names, and whole files are rewritten."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.errors import raises_code
from vita_train.errors import RecipeError
from vita_train.recipe.load import load_recipe
from vita_train.recipe.renamed import RENAMED_KEYS, upgrade_file, upgrade_recipe

FORMER = """\
# Mine.
name: mine
data: {source: {own: {kind: records, registry: r.json}}}
model:
  ctc_head: {units: word}   # units: whole words
stages:
  1.1:
    objective: next_token
    data: {rows: 1, limit: 0.5}  # datasets that are called so
    trainable: {projector: 2e-3}
    steps: 5
    "save_every": 2
    batch: &batch
      rows: 8     # over all ranks
      row_tokens: 512

      accumulate: 2
    optim: {final: 0.1, clip_norm: 0.5}
    eval: { every: 3,
            limit: 4 }
  rows:
    after: []
    objective: next_token
    data: {caption: 1}
    trainable: {llm: 1e-3}
    steps: 5
    batch: *batch
"""
TODAY = """\
# Mine.
name: mine
data: {source: {own: {kind: records, registry: r.json}}}
model:
  ctc_head: {vocab: word}   # units: whole words
stages:
  1.1:
    objective: next_token
    data: {rows: 1, limit: 0.5}  # datasets that are called so
    trainable: {projector: 2e-3}
    steps: 5
    "checkpoint_interval": 2
    batch: &batch
      global_batch_size: 8     # over all ranks
      seq_len: 512

      grad_accum: 2
    optim: {min_lr_ratio: 0.1, max_grad_norm: 0.5}
    eval: { interval: 3,
            max_samples: 4 }
  rows:
    after: []
    objective: next_token
    data: {caption: 1}
    trainable: {llm: 1e-3}
    steps: 5
    batch: *batch
"""


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vita_train.cli.main", "recipe", "upgrade", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "COLUMNS": "200"},
    )


def test_keys_are_renamed_and_all_else_stays_to_the_letter() -> None:
    text, renames = upgrade_recipe(FORMER, "mine.yaml")
    assert text == TODAY
    assert len(renames) == 9
    assert renames[0] == (5, "model.ctc_head.units", "vocab")
    assert renames[2] == (14, "stages.1.1.batch.rows", "global_batch_size")
    assert upgrade_recipe(TODAY, "mine.yaml") == (TODAY, [])


def test_line_ends_and_the_mark_of_utf8_stay(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(("\ufeff" + FORMER.replace("\n", "\r\n")).encode())
    upgrade_file(path)
    assert path.read_bytes() == ("\ufeff" + TODAY.replace("\n", "\r\n")).encode()


def test_a_rewritten_file_loads() -> None:
    recipe = load_recipe(TODAY)
    first = recipe.stages["1.1"]
    assert (first.batch.global_batch_size, first.batch.seq_len, first.batch.grad_accum) == (
        8,
        512,
        2,
    )
    assert (first.optim.min_lr_ratio, first.optim.max_grad_norm, first.checkpoint_interval) == (
        0.1,
        0.5,
        2,
    )
    assert (first.eval.interval, first.eval.max_samples, recipe.model.ctc_head.vocab) == (
        3,
        4,
        "word",
    )


@pytest.mark.parametrize("former", RENAMED_KEYS, ids=".".join)
def test_a_former_key_is_refused_with_its_new_name(former: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(TODAY)
    key = ".".join("1.1" if part == "*" else part for part in former)
    with raises_code(RecipeError, "VT-RECIPE-049") as caught:
        load_recipe(str(path), [f"{key}=1"])
    assert caught.value.where == f"--set {key}=1"
    assert f"{key} is called {RENAMED_KEYS[former]} now" in caught.value.what


def test_a_former_key_in_a_file_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(TODAY.replace("max_grad_norm:", "clip_norm:"))
    with raises_code(RecipeError, "VT-RECIPE-049", "max_grad_norm") as caught:
        load_recipe(str(path))
    assert caught.value.where == f"{path}:18"


@pytest.mark.parametrize(
    ("text", "line", "code", "facts"),
    [
        (
            TODAY.replace('steps: 5\n    "', 'save_every: 1\n    "'),
            11,
            "VT-RECIPE-040",
            ["save_every", "checkpoint_interval"],
        ),
        ("stages: {a: [\n", 2, "VT-RECIPE-051", []),
        ("stages: &a {one: *a}\n", 1, "VT-RECIPE-053", []),
    ],
)
def test_what_is_no_recipe_is_refused_and_left_alone(
    text: str, line: int, code: str, facts: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with raises_code(RecipeError, code, *facts) as caught:
        upgrade_file(path)
    assert caught.value.where == f"{path}:{line}"
    assert path.read_text() == text
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.yaml"]


def test_the_command_rewrites_what_a_link_points_to_and_keeps_its_mode(tmp_path: Path) -> None:
    path, link = tmp_path / "mine.yaml", tmp_path / "link.yaml"
    path.write_text(FORMER)
    path.chmod(0o640)
    link.symlink_to(path)
    checked = command("--check", str(link))
    assert (checked.returncode, path.read_text()) == (2, FORMER)
    assert f"{link}:14: stages.1.1.batch.rows -> global_batch_size\n" in checked.stdout
    done = command(str(link))
    assert (done.returncode, done.stdout) == (0, checked.stdout)
    assert (path.read_text(), path.stat().st_mode & 0o777, link.is_symlink()) == (
        TODAY,
        0o640,
        True,
    )
    again = command("--check", str(link))
    assert (again.returncode, again.stdout) == (0, "nothing to rename\n")
