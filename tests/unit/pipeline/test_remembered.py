"""Whatever command works on a run finds the extensions and accepted gates that were given to it
before."""

from __future__ import annotations

from pathlib import Path

from vita_train.pipeline.opening import open_run
from vita_train.recipe.extension import extended
from vita_train.recipe.load import load_recipe
from vita_train.runs.run import Run


def test_a_run_gives_back_what_it_was_given(tmp_path: Path) -> None:
    plain = load_recipe("smoke", [f"storage.root={tmp_path}"])
    assert Run(plain, "r").remembered().recipe == plain
    given = extended(plain, ["0.llm=30"], ["1.2"])
    Run(given, "r").write_recipe()
    assert Run(plain, "r").remembered().recipe.stages == given.stages
    assert open_run("smoke", "r", str(tmp_path))[0].recipe.stages == given.stages
    (tmp_path / "r" / "recipe.yaml").write_text("name: [of another version")
    assert Run(plain, "r").remembered().recipe == plain
