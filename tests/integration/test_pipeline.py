"""The compiled pipelines, and the ladder as `vita-train run` executes it under kfp.local."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml

from tests.helpers.errors import raises_code, shows_code
from tests.helpers.pods import pods_started
from tests.helpers.s3_server import S3Server
from vita_train.errors import RecipeError
from vita_train.launch.process import group_alive
from vita_train.pipeline.remaining import position
from vita_train.pipeline.steps import check_pipeline
from vita_train.recipe.load import load_recipe
from vita_train.recipe.selection import run_steps, stage_graph
from vita_train.runs.final import read_final
from vita_train.runs.manifest import Manifest
from vita_train.storage.factory import open_file, open_store

ROOT = Path(__file__).resolve().parents[2]
COMPILED = ROOT / "pipelines" / "compiled"
SMALL = ["--set", "data.source.world.scale=0.005", "--set", "data.source.world.test_size=2"]


def _compile(
    *arguments: str, cwd: Path = ROOT, seed: str = "0"
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "pipelines" / "compile.py"), *arguments],
        cwd=cwd,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        check=False,
    )


def _vita(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "vita_train.cli.main", *arguments]


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(_vita("run", *arguments), text=True, capture_output=True, check=False)


def _final(root: Path, step: str) -> Manifest | None:
    return read_final(open_store(str(root)), f"r/{step}")


def test_committed_pipelines_are_what_the_sources_compile_to(tmp_path: Path) -> None:
    done = _compile("--check", cwd=tmp_path, seed="11")
    assert done.returncode == 0, done.stdout


def test_check_shows_what_differs(tmp_path: Path) -> None:
    for path in COMPILED.glob("*.yaml"):
        (tmp_path / path.name).write_text(path.read_text())
    (tmp_path / "ladder.yaml").write_text(
        (COMPILED / "ladder.yaml").read_text().replace("tiny", "huge")
    )
    done = _compile("--check", "--out", str(tmp_path))
    assert done.returncode == 1
    assert "-#    recipe: str [Default: 'huge']" in done.stdout


def test_images_and_the_charts_names_are_set_when_compiling(tmp_path: Path) -> None:
    images = {
        kind: f"registry.example/{kind}-python@sha256:0123"
        for kind in ("data", "trainer", "launcher")
    }
    options = [word for kind, image in images.items() for word in (f"--{kind}-image", image)]
    assert (
        _compile(
            "--out", str(tmp_path), *options, "--prefix", "omni", "--s3-secret", "keys"
        ).returncode
        == 0
    )
    pipeline, platform = yaml.safe_load_all((tmp_path / "ladder.yaml").read_text())
    used = {
        name.removeprefix("exec-").rstrip("-0123456789"): executor["container"]["image"]
        for name, executor in pipeline["deploymentSpec"]["executors"].items()
    }
    assert {used["data-fetch"], used["data-validation"]} == {images["data"]}
    assert {used["evaluate"], used["export"], used["report"]} == {images["trainer"]}
    assert {image for name, image in used.items() if name.startswith("train-")} == {
        images["launcher"]
    }
    for executor in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
        assert {volume["configMapName"] for volume in executor["configMapAsVolume"]} == {
            "omni-platform"
        }
        assert {secret["secretName"] for secret in executor["secretAsEnv"]} == {"keys"}


def test_every_step_gets_the_platforms_settings_and_what_is_set_on_training_goes_to_its_job() -> (
    None
):
    pipeline, platform = yaml.safe_load_all((COMPILED / "ladder.yaml").read_text())
    executors = pipeline["deploymentSpec"]["executors"]
    settings = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(settings) == set(executors)
    for setting in settings.values():
        assert [volume["mountPath"] for volume in setting["configMapAsVolume"]] == [
            "/etc/vita-train"
        ]
        assert all(
            source["optional"]
            for kind in ("configMapAsVolume", "configMapAsEnv", "secretAsEnv")
            for source in setting[kind]
        ), "a step without the chart must start and say what is missing"
    for name, component in pipeline["components"].items():
        passed = [entry["field"] for entry in component.get("taskConfigPassthroughs", [])]
        is_training = "stage" in component["inputDefinitions"]["parameters"]
        assert ("RESOURCES" in passed) == is_training, name
        assert ("task_config" in component["inputDefinitions"]["parameters"]) == is_training, name


@pytest.mark.parametrize("path", sorted(COMPILED.glob("*.yaml")), ids=lambda path: path.stem)
def test_components_install_nothing_and_parameters_are_described(path: Path) -> None:
    text = path.read_text()
    assert "pip install" not in text
    spec: dict[str, Any] = next(yaml.safe_load_all(text))
    for parameter in spec["root"]["inputDefinitions"]["parameters"].values():
        assert parameter["description"]
        assert parameter["isOptional"]
    for executor in spec["deploymentSpec"]["executors"].values():
        assert "python" in executor["container"]["image"], "kfp.local warns about other names"


def _tasks(spec: dict[str, Any], dag: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every task by the step its name on the page begins with, each with ``waits``: what its graph
    has it wait for."""
    found: dict[str, dict[str, Any]] = {}
    titles = {name: task["taskInfo"]["name"] for name, task in dag["tasks"].items()}
    for task in dag["tasks"].values():
        inner = spec["components"][task["componentRef"]["name"]]
        found[task["taskInfo"]["name"]] = {
            **task,
            "waits": {titles[name] for name in task.get("dependentTasks", [])},
        }
        if "dag" in inner:
            found |= _tasks(spec, inner["dag"])
    return found


def test_the_ladder_is_its_stages_nested_by_group_and_the_report_always_comes() -> None:
    pipeline = next(yaml.safe_load_all((COMPILED / "ladder.yaml").read_text()))
    tasks = _tasks(pipeline, pipeline["root"]["dag"])
    waits = {name: task["waits"] for name, task in tasks.items()}
    assert {name.split()[0] for name in waits} >= set(run_steps(load_recipe("tiny")))
    assert waits["to do"] == {"data_fetch"}
    assert waits["base"] == waits["2.1a recogniser"] == waits["3.1 speech codec"] == {"preflight"}
    assert waits["preflight"] == {"prepare"}
    assert waits["see"] == {"base"}
    assert waits["hear: 2.1b, 2.2"] == {"see", "2.1a recogniser"}
    assert waits["3.2 speech decoder"] == {"hear: 2.1b, 2.2", "3.1 speech codec"}
    assert waits["1.3 instruction"] == {"1.2 understanding"}
    # One end: Argo stops starting tasks when an end of its graph has failed.
    inside = {name for name in waits if name not in ("training", "to do", "data_fetch", "report")}
    assert inside - {other for name in inside for other in waits[name]} >= {"export"}
    last = tasks["report"]
    assert last["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"
    assert last["waits"] == {"training"}


def test_what_is_committed_costs_few_pods() -> None:
    pipeline = next(yaml.safe_load_all((COMPILED / "ladder.yaml").read_text()))
    stages = list(load_recipe("tiny").stages)
    everything = position(stages, "export") + 1
    assert pods_started(pipeline, everything) == 7, "first step, its condition, report, two graphs"
    fresh, resumed = pods_started(pipeline, 0), pods_started(pipeline, position(stages, "2.1b"))
    assert fresh - resumed == 2 * len(["0.llm", "0.vision", "1.1", "1.2", "1.3"])


OWN = """
name: mine
data: {source: {world: {kind: synth, scale: 0.005, test_size: 2}}}
stages:
  words: {objective: next_token, data: {textqa: 1}, trainable: {llm: 1e-3}, steps: 1,
          group: first steps}
  sounds: {objective: codec, data: {tts: 1}, trainable: {codec: 1e-3}, steps: 1, after: []}
  more.words: {objective: next_token, data: {instruct: 1}, trainable: {llm: 1e-3}, steps: 1,
               after: [words],
               group: first steps}
"""


def test_any_recipe_is_compiled_to_the_graph_of_its_stages(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(OWN)
    done = _compile("--recipe", "own.yaml", "--out", "compiled", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    pipeline = next(yaml.safe_load_all((tmp_path / "compiled" / "mine.yaml").read_text()))
    waits = {
        name: task["waits"] for name, task in _tasks(pipeline, pipeline["root"]["dag"]).items()
    }
    assert waits["first steps"] == waits["sounds"] == {"preflight"}
    assert waits["more.words"] == {"words"}
    assert waits["evaluate"] == {"first steps", "sounds"}
    default = pipeline["root"]["inputDefinitions"]["parameters"]["recipe"]["defaultValue"]
    assert list(load_recipe(default).stages) == ["words", "sounds", "more.words"]


def test_a_recipe_that_cannot_be_run_is_not_compiled(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(OWN.replace("[words]", "[wards]"))
    done = _compile("--recipe", "own.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert shows_code(done.stderr, "VT-RECIPE-033", "own.yaml:9:", "'wards'")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage root that holds a run up to its prepared data."""
    root = tmp_path_factory.mktemp("runs")
    done = _run(
        "smoke", "--run", "r", "--set", f"storage.root={root}", *SMALL, "--until", "prepare"
    )
    assert done.returncode == 0, done.stderr
    return root


def test_part_of_a_run_is_committed_once_and_reused(prepared: Path) -> None:
    manifest = _final(prepared, "prepare")
    assert manifest is not None
    assert manifest.metrics["records"] == manifest.metrics["used"] + manifest.metrics["rejected"]
    assert _final(prepared, "0.llm") is None
    again = _run(
        "smoke", "--run", "r", "--set", f"storage.root={prepared}", *SMALL, "--until", "prepare"
    )
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("reused") == 2
    assert _final(prepared, "prepare") == manifest
    assert not (prepared / "r" / "scratch").exists()


def test_a_forced_preparation_prepares(prepared: Path) -> None:
    meta, before = prepared / "r" / "prepare" / "corpus" / "meta.json", _final(prepared, "prepare")
    inode = meta.stat().st_ino
    done = _run(
        "smoke",
        "--run",
        "r",
        "--set",
        f"storage.root={prepared}",
        *SMALL,
        "--only",
        "prepare",
        "--force",
    )
    assert done.returncode == 0, done.stderr
    assert meta.stat().st_ino != inode
    assert _final(prepared, "prepare") == before


def test_failing_step_ends_in_one_line_with_its_log_and_a_page(prepared: Path) -> None:
    records = prepared / "r" / "data_fetch" / "raw" / "registry.json"
    text = records.read_text()
    records.write_text(text.replace('"train"', '"trian"', 1))
    done = _run(
        "smoke",
        "--run",
        "r",
        "--set",
        f"storage.root={prepared}",
        *SMALL,
        "--from",
        "prepare",
        "--force",
    )
    records.write_text(text)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert "prepare (data validation) failed" in errors[0]
    assert str(prepared / "r" / "logs" / "pipeline.log") in errors[0]
    assert "Traceback" not in done.stdout + done.stderr
    page = prepared / "r" / "report" / "report.html"
    assert f"report: {page}" in errors[0]
    assert "The preparation of the data failed" in page.read_text(), (
        "the page is written whatever happened"
    )


BRANCHES = """{
 ear: {objective: ctc, data: {asr: 1}, trainable: {audio_encoder: 1e-3, ctc_head: 1e-3}, steps: 1,
        batch: {global_batch_size: 2},
       eval: {batches: 1, max_samples: 1}, gates: {asr.test_sentences.wer: {max: -1}}},
 better-ear: {objective: ctc, data: {asr: 1}, trainable: {audio_encoder: 1e-3, ctc_head: 1e-3},
              steps: 1},
 voice: {objective: codec, data: {tts: 1}, trainable: {codec: 1e-3}, steps: 1,
          batch: {global_batch_size: 2}, after: [],
         eval: {batches: 1, max_samples: 1}}}"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_failed_branch_stops_what_depends_on_it_and_nothing_else(prepared: Path) -> None:
    done = _run(
        "smoke",
        "--run",
        "r",
        "--set",
        f"storage.root={prepared}",
        *SMALL,
        "--set",
        f"stages={BRANCHES}",
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "ear (ear) failed: exit gate not met" in done.stderr
    assert _final(prepared, "ear") is None
    assert _final(prepared, "voice") is not None
    assert not (prepared / "r" / "better-ear").exists(), "it waits for what failed"
    assert _final(prepared, "evaluate") is None
    log = (prepared / "r" / "logs" / "steps.jsonl").read_text()
    assert log.index('"ear", "state": "failed"') < log.index('"voice", "state": "running"'), (
        "in the recipe's order"
    )
    assert (prepared / "r" / "report" / "report.html").is_file()


def test_an_uploaded_pipeline_refuses_a_recipe_whose_stages_it_lacks_in_its_first_step(
    tmp_path: Path,
) -> None:
    (tmp_path / "own.yaml").write_text(OWN)
    recipe = load_recipe(str(tmp_path / "own.yaml"))
    pipeline = next(yaml.safe_load_all((COMPILED / "ladder.yaml").read_text()))
    first = _tasks(pipeline, pipeline["root"]["dag"])["data_fetch"]
    ladder = first["inputs"]["parameters"]["stages"]["runtimeValue"]["constant"]
    assert list(json.loads(ladder)) == list(load_recipe("tiny").stages)
    with raises_code(RecipeError, "VT-RECIPE-024", "words", "vita-train submit"):
        check_pipeline(recipe, ladder)
    check_pipeline(recipe, json.dumps(stage_graph(recipe)))
    check_pipeline(load_recipe("vita-1.5-7b"), ladder)


def test_stopping_a_run_ends_all_of_it_and_leaves_nothing_elsewhere(tmp_path: Path) -> None:
    log, temporary = tmp_path / "r" / "logs" / "steps.jsonl", tmp_path / "temporary"
    temporary.mkdir()
    with subprocess.Popen(
        _vita(
            "run",
            "smoke",
            "--run",
            "r",
            "--set",
            f"storage.root={tmp_path}",
            "--set",
            "data.source.world.scale=3",
            "--until",
            "data_fetch",
        ),
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        try:
            while not (log.exists() and "running" in log.read_text()):
                assert run.poll() is None, "the run ended before it could be stopped"
                time.sleep(0.1)
            children = subprocess.run(
                ["pgrep", "-P", str(run.pid)], capture_output=True, text=True, check=True
            )
            groups = [int(pid) for pid in children.stdout.split()]
            second = _run(
                "smoke", "--run", "r", "--set", f"storage.root={tmp_path}", "--until", "data_fetch"
            )
            run.send_signal(signal.SIGINT)
            _, errors = run.communicate()
        finally:
            run.terminate()
    assert second.returncode == 2
    assert "going on in another process" in second.stderr
    assert run.returncode == 143
    assert "stopped as asked" in errors
    assert groups
    assert not any(group_alive(group) for group in groups)
    assert _final(tmp_path, "data_fetch") is None
    left = {path.name.partition("_")[0] for path in temporary.iterdir()}
    assert left <= {"torchinductor"}, "one folder that torch keeps for all"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_whole_smoke_run_and_rerun(tmp_path: Path) -> None:
    command = ["smoke", "--run", "r", "--set", f"storage.root={tmp_path}"]
    done = _run(*command)
    assert done.returncode == 0, done.stderr
    assert all(_final(tmp_path, step) is not None for step in run_steps(load_recipe("smoke")))
    assert "chat --checkpoint" in done.stdout
    report = (tmp_path / "r" / "report" / "report.html").read_text()
    assert report.lstrip().lower().startswith("<!doctype html")
    again = _run(*command)
    assert again.stdout.count("reused") == len(run_steps(load_recipe("smoke")))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_on_s3_keeps_its_commits_there(
    tmp_path: Path, s3_server: S3Server, s3_credentials: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = s3_server.endpoint
    boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(
        Bucket="whole-run"
    )
    monkeypatch.setenv("VITA_TRAIN_CACHE", str(tmp_path / "cache"))
    command = [
        "smoke",
        "--run",
        "r",
        "--set",
        "storage.root=s3://whole-run/runs",
        "--set",
        f"storage.endpoint={endpoint}",
        *SMALL,
        "--until",
        "0.llm",
    ]
    done = _run(*command)
    assert done.returncode == 0, done.stderr
    store = open_store("s3://whole-run/runs", endpoint=endpoint)
    manifest = read_final(store, "r/0.llm")
    assert manifest is not None
    weights = manifest.modules["llm"].files[0]
    inside, key = open_file(weights.uri, endpoint=endpoint)
    assert hashlib.sha256(inside.read(key)).hexdigest() == weights.sha256
    shutil.rmtree(tmp_path / "cache")  # as on another machine: S3 alone knows of the run
    again = _run(*command)
    assert again.returncode == 0, again.stderr
    lines = [line.split() for line in again.stdout.splitlines()]
    reused = [words[0] for words in lines if words[-1:] == ["reused"]]
    assert reused == ["data_fetch", "prepare", "preflight", "0.llm"]
    assert not (tmp_path / "cache" / "runs" / "r" / "prepare" / "corpus").exists(), (
        "what is done needs no data"
    )
    further = _run(*command[:-2], "--only", "0.vision")
    assert further.returncode == 0, further.stderr
    assert read_final(store, "r/0.vision") is not None
    assert any((tmp_path / "cache" / "runs" / "r" / "data_fetch" / "raw").rglob("*.jpg"))
