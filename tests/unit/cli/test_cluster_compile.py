"""Compiling a recipe's pipeline, by the command that a repository of recipes runs on each push."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from vita_train.cli.main import build_app
from vita_train.errors import RecipeError

WORKFLOW = Path(__file__).parents[3] / "examples" / "ci" / "pipelines.yml"


def test_a_recipe_is_compiled_or_nothing_is_written(tmp_path: Path) -> None:
    done = CliRunner().invoke(build_app(), ["cluster", "compile", "smoke", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    [made] = tmp_path.iterdir()
    assert next(yaml.safe_load_all(made.read_text()))["pipelineInfo"]["name"].startswith("vita-")
    wrong = ["cluster", "compile", "smoke", "--set", "nothing=1", "--out", str(tmp_path / "b")]
    with pytest.raises(RecipeError):
        CliRunner().invoke(build_app(), wrong, catch_exceptions=False)
    assert not (tmp_path / "b").exists()


def test_the_workflow_calls_commands_that_there_are() -> None:
    steps = yaml.safe_load(WORKFLOW.read_text())["jobs"]["pipelines"]["steps"]
    text = "\n".join(str(step.get("run", "")) for step in steps)
    called = re.findall(r"vita-train ([a-z]+ [a-z]+) ", text)
    assert len(called) == 3
    for words in called:
        command: Any = typer.main.get_command(build_app())
        for word in words.split():
            command = command.commands[word]
