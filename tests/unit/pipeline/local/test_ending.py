"""What a finished run prints."""

from __future__ import annotations

import io
import shlex
from pathlib import Path

from rich.console import Console

from vita_train.pipeline.local.ending import last_gates, score_table, show_ending
from vita_train.recipe.load import load_recipe
from vita_train.recipe.stage import Gate
from vita_train.runs.final import write_final
from vita_train.runs.manifest import Manifest
from vita_train.runs.run import Run
from vita_train.storage.base import FileRef
from vita_train.storage.factory import open_store


def _text(root: Path, **manifests: Manifest) -> str:
    recipe = load_recipe("smoke", [f"storage.root={root}"])
    for step, manifest in manifests.items():
        write_final(open_store(str(root)), f"r/{step}", manifest)
    output = io.StringIO()
    show_ending(Run(recipe, "r"), Console(file=output, width=60))
    return output.getvalue()


def test_chat_line_survives_a_path_with_spaces_and_a_narrow_terminal(tmp_path: Path) -> None:
    root = tmp_path / "my runs, all of them in one very long directory name"
    model = root / "r" / "export" / "model" / "export.json"
    exported = Manifest(
        kind="export",
        run="r",
        stage="export",
        digest="d",
        files={"export.json": FileRef(uri=str(model), sha256="0", bytes=1)},
    )
    line = next(
        line for line in _text(root, export=exported).splitlines() if line.startswith("chat:")
    )
    words = shlex.split(line.removeprefix("chat:"))
    assert words[1:3] == ["chat", "--checkpoint"]
    assert Path(words[3]) == model.parent


def test_scores_stand_beside_their_bounds(tmp_path: Path) -> None:
    output = io.StringIO()
    table = score_table(
        {"a.test.accuracy": 0.71, "b.test.wer": 0.02, "c.test.loss": 1.0},
        {"a.test.accuracy": Gate(min=0.8), "b.test.wer": Gate(max=0.05)},
    )
    Console(file=output, width=80).print(table)
    rows = {line.split()[0]: line.split()[1:] for line in output.getvalue().splitlines()[1:]}
    assert rows["a.test.accuracy"] == ["0.710", ">=", "0.8"]
    assert rows["b.test.wer"] == ["0.020", "<=", "0.05"]
    assert rows["c.test.loss"] == ["1.000"]


def test_gates_of_later_stages_win() -> None:
    tiny = load_recipe("tiny")
    gates = last_gates(tiny)
    for stage in tiny.stages.values():
        assert set(stage.gates) <= set(gates)


def test_run_without_results_names_its_directory(tmp_path: Path) -> None:
    assert str(tmp_path / "r") in _text(tmp_path).replace("\n", "")
