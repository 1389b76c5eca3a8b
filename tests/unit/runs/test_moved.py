"""A run that was moved, copied or renamed finds its own files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from vita_train.recipe.load import load_recipe
from vita_train.runs.manifest import Manifest, ModuleRef
from vita_train.runs.run import Run
from vita_train.storage.base import FileRef
from vita_train.storage.digest import sha256_file


def run_at(root: Path, name: str) -> Run:
    return Run(load_recipe("smoke", [f"storage.root={root}"]), name)


@pytest.fixture
def written(tmp_path: Path) -> Run:
    """A run with weights of its own, an adapter over them, and weights from outside."""
    run = run_at(tmp_path / "before", "first")
    outside = tmp_path / "elsewhere" / "vision.safetensors"
    own = run.dir / "1.1" / "final" / "a" / "llm.safetensors"
    adapter = run.dir / "1.2" / "final" / "b" / "adapter_model.safetensors"
    for path in (outside, own, adapter):
        path.parent.mkdir(parents=True)
        path.write_bytes(path.name.encode())

    def reference(path: Path) -> FileRef:
        return FileRef(uri=str(path), sha256=sha256_file(path), bytes=path.stat().st_size)

    base = ModuleRef(stage="1.1", files=(reference(own),))
    modules = {
        "llm": ModuleRef(stage="1.2", files=(reference(adapter),), base=base),
        "vision": ModuleRef(stage="pretrained", files=(reference(outside),)),
    }
    run.commit("1.2", Manifest(kind="model", run="first", stage="1.2", digest="d", modules=modules))
    return run


@pytest.mark.parametrize("name", ["first", "renamed"])
@pytest.mark.parametrize("move", [shutil.move, shutil.copytree])
def test_files_of_the_run_are_named_where_they_lie_now(
    written: Run, tmp_path: Path, name: str, move: object
) -> None:
    before = written.final("1.2")
    (tmp_path / "after").mkdir()
    (shutil.move if move is shutil.move else shutil.copytree)(
        str(written.dir), str(tmp_path / "after" / name)
    )
    after = run_at(tmp_path / "after", name).final("1.2")
    assert before is not None
    assert after is not None
    llm, base = after.modules["llm"], after.modules["llm"].base
    assert isinstance(base, ModuleRef)
    for file in (*llm.files, *base.files):
        assert Path(file.uri).is_relative_to(tmp_path / "after" / name)
        assert sha256_file(Path(file.uri)) == file.sha256
    assert after.modules["vision"] == before.modules["vision"], "it belongs to nobody's run"


def test_a_run_that_stays_is_as_it_was_written(written: Run) -> None:
    assert written.final("1.2") == Manifest.model_validate_json(
        (written.dir / "1.2" / "final.json").read_text()
    )
