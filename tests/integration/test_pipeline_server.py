"""Compiled pipelines go to a Kubeflow Pipelines server, and runs are started there.

The server is a stand-in: the real one needs a database, Argo and a metadata store.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.helpers.errors import raises_code
from tests.helpers.kfp_server import FakeKfp, fake_kfp
from vita_train.errors import PeerLostError, UserError, VitaError
from vita_train.pipeline.server import TOKEN_VARIABLE, PipelineServer
from vita_train.recipe.load import load_recipe

COMPILED = Path(__file__).resolve().parents[2] / "pipelines" / "compiled"


@pytest.fixture
def kfp() -> Iterator[FakeKfp]:
    with fake_kfp() as server:
        yield server


def _vita(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vita_train.cli.main", *arguments],
        text=True,
        capture_output=True,
        check=False,
    )


def test_a_file_is_uploaded_once_and_a_changed_one_is_a_new_version(
    kfp: FakeKfp, tmp_path: Path
) -> None:
    server = PipelineServer(kfp.endpoint)
    path = tmp_path / "one.yaml"
    path.write_bytes((COMPILED / "stage-1.1.yaml").read_bytes())
    first = server.upload(path)
    assert server.upload(path) == first
    assert list(kfp.versions) == ["vita-train-stage-1-1"]
    versions = kfp.versions["vita-train-stage-1-1"]
    assert list(versions) == [first], "no version that is named after the pipeline"
    assert re.fullmatch(r"0\.1\.0-\d{4}-\d\d-\d\d-[0-9a-f]{8}", first)
    assert len(kfp.descriptions) == 2
    for text in kfp.descriptions:
        assert "stage 1.1" in text
        assert "\nstorage_root: " in text, "the form shows names alone"
    assert versions[first] == path.read_bytes()
    path.write_bytes(path.read_bytes().replace(b"launcher-python:", b"launcher-python-2:"))
    second = server.upload(path)
    assert list(versions)[1:] == [second]
    assert second != first


def test_submit_starts_the_newest_version_with_the_checked_recipe(
    kfp: FakeKfp, tmp_path: Path
) -> None:
    newest = PipelineServer(kfp.endpoint).upload(COMPILED / "ladder.yaml")
    done = _vita(
        "submit",
        "smoke",
        "--endpoint",
        kfp.endpoint,
        "--run",
        "first",
        "--set",
        "seed=3",
        "--storage",
        "s3://bucket/runs",
        "--until",
        "1.1",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{kfp.endpoint}/#/runs/details/run-1"
    [run] = kfp.runs
    assert run["pipeline_version_reference"] == {
        "pipeline_id": "vita-train-ladder",
        "pipeline_version_id": f"id of {newest}",
    }
    given = run["runtime_config"]["parameters"]
    assert given == {
        "recipe": "smoke",
        "run": "first",
        "storage_root": "s3://bucket/runs",
        "overrides": ["seed=3"],
        "steps": "..1.1",
        "force": False,
    }
    parameters = next(yaml.safe_load_all((COMPILED / "ladder.yaml").read_text()))["root"][
        "inputDefinitions"
    ]
    assert set(given) == set(parameters["parameters"]), (
        "each is a parameter of the pipeline, and none is left out"
    )
    # A recipe of the user's own travels as text, since the cluster does not see this machine's
    # files.
    own = tmp_path / "own.yaml"
    own.write_text(
        (Path(__file__).resolve().parents[2] / "vita_train/recipe/presets/smoke.yaml").read_text()
    )
    assert _vita("submit", str(own), "--endpoint", kfp.endpoint, "--set", "seed=5").returncode == 0
    text = kfp.runs[1]["runtime_config"]["parameters"]["recipe"]
    assert load_recipe(text, []) == load_recipe(str(own), ["seed=5"])


def test_submit_uploads_the_pipeline_that_the_server_lacks(kfp: FakeKfp) -> None:
    done = _vita("submit", "smoke", "--endpoint", kfp.endpoint, "--no-check")
    assert done.returncode == 0, done.stderr
    [run] = kfp.runs
    assert run["pipeline_version_reference"]["pipeline_id"] == "vita-train-ladder"
    assert (
        list(kfp.versions["vita-train-ladder"].values())[-1]
        == (COMPILED / "ladder.yaml").read_bytes()
    )


def test_a_recipe_with_stages_of_its_own_gets_its_own_pipeline_compiled_as_the_others_there(
    kfp: FakeKfp, tmp_path: Path
) -> None:
    text = (
        (COMPILED / "ladder.yaml")
        .read_text()
        .replace("vita-train-launcher-python:", "registry.example/launcher:")
    )
    (tmp_path / "ladder.yaml").write_text(
        text.replace("configMapName: vita-platform", "configMapName: omni-platform")
    )
    PipelineServer(kfp.endpoint).upload(tmp_path / "ladder.yaml")
    own = tmp_path / "own.yaml"
    own.write_text(
        "name: mine\ndata: {source: {world: {kind: synth}}}\nstages:\n"
        "  words: {objective: next_token, data: {textqa: 1}, trainable: {llm: 1e-3}, steps: 1}\n"
    )
    done = _vita("submit", str(own), "--endpoint", kfp.endpoint, "--no-check")
    assert done.returncode == 0, done.stderr
    assert kfp.runs[0]["pipeline_version_reference"]["pipeline_id"] == "vita-train-mine"
    compiled = list(kfp.versions["vita-train-mine"].values())[-1].decode()
    assert "registry.example/launcher:" in compiled
    assert "configMapName: omni-platform" in compiled
    assert "name: words" in compiled
    assert _vita("submit", str(own), "--endpoint", kfp.endpoint, "--no-check").returncode == 0
    assert len(kfp.versions["vita-train-mine"]) == 1, "the same pipeline is uploaded once"


def test_a_wrong_recipe_is_refused_before_anything_is_started(kfp: FakeKfp) -> None:
    done = _vita("submit", "smoke", "--endpoint", kfp.endpoint, "--set", "sed=3")
    assert done.returncode == 2
    assert "sed" in done.stderr
    assert kfp.runs == []


def test_what_the_cluster_would_say_after_minutes_is_said_before_anything_is_started(
    kfp: FakeKfp,
) -> None:
    small = ("--set", "launch.nodes=1", "--set", "launch.nproc=1", "--gpu", "l4-24")
    done = _vita("submit", "vita-1.5-7b", "--endpoint", kfp.endpoint, *small)
    assert done.returncode == 2
    assert "VT-USE-213" in done.stderr
    assert kfp.runs == []
    assert not kfp.versions


def test_the_pods_token_is_sent(
    kfp: FakeKfp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("let-me-in")
    monkeypatch.setenv(TOKEN_VARIABLE, str(tmp_path / "token"))
    PipelineServer(kfp.endpoint).upload(COMPILED / "ladder.yaml")
    assert set(kfp.tokens) == {"Bearer let-me-in"}


@pytest.mark.parametrize(
    ("status", "kind", "code", "fact"),
    [
        (401, UserError, "VT-USE-066", "401"),
        (403, UserError, "VT-USE-066", "403"),
        (400, UserError, "VT-USE-067", "pipeline spec is wrong"),
        (503, PeerLostError, "VT-PEER-003", "503"),
    ],
)
def test_what_the_server_says_is_told(
    kfp: FakeKfp, status: int, kind: type[VitaError], code: str, fact: str
) -> None:
    kfp.refusal = (status, "pipeline spec is wrong")
    with raises_code(kind, code, fact):
        PipelineServer(kfp.endpoint).upload(COMPILED / "ladder.yaml")


def test_missing_things_are_named(kfp: FakeKfp, tmp_path: Path) -> None:
    with raises_code(UserError, "VT-USE-064", "vita-train-ladder"):
        PipelineServer(kfp.endpoint).start("vita-train-ladder", {}, name="r", experiment="e")
    (tmp_path / "no.yaml").write_text("a: 1\n")
    with raises_code(UserError, "VT-USE-065"):
        PipelineServer(kfp.endpoint).upload(tmp_path / "no.yaml")
    with raises_code(PeerLostError, "VT-PEER-004"):
        PipelineServer("http://127.0.0.1:9").upload(COMPILED / "ladder.yaml")
