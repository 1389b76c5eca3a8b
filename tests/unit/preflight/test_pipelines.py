"""The trial runs of ``cluster check --endpoint``, on a stand-in of the server: the real one needs
Argo and a database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.kfp_server import FakeKfp, fake_kfp
from vita_train.pipeline.compiled import LADDER_PIPELINE
from vita_train.pipeline.server import PipelineServer
from vita_train.preflight.pipelines import Timeouts, check_pipelines
from vita_train.recipe.check import check_recipe
from vita_train.recipe.load import load_recipe
from vita_train.recipe.selection import Selection

LADDER = Path(__file__).resolve().parents[3] / "pipelines" / "compiled" / "ladder.yaml"
SOON = Timeouts(run=0.3, gone=0.3, poll=0.01)


@pytest.fixture
def kfp() -> Iterator[FakeKfp]:
    with fake_kfp() as server:
        PipelineServer(server.endpoint).upload(LADDER)
        yield server


def _outcomes(kfp: FakeKfp, jobs: list[int]) -> list[tuple[bool, str]]:
    """Check, with as many jobs at each look as a list says; its last number stays."""

    def look(run: str) -> int:
        assert run == kfp.runs[0]["display_name"]
        return jobs.pop(0) if len(jobs) > 1 else jobs[0]

    server = PipelineServer(kfp.endpoint)
    checks = check_pipelines(server, look, out=lambda line: None, timeouts=SOON)
    return [(made.ok, made.detail) for made in checks]


def test_a_run_is_waited_for_and_another_terminated_once_its_job_is_there(kfp: FakeKfp) -> None:
    kfp.states = {"run-1": "SUCCEEDED", "run-2": "RUNNING"}
    outcomes = _outcomes(kfp, [0, 0, 1, 1, 0])
    assert [ok for ok, _ in outcomes] == [True, True], outcomes
    assert kfp.terminated == ["run-2"]
    first, second = (run["runtime_config"]["parameters"] for run in kfp.runs)
    assert second["run"] == first["run"], "its data are there already"
    for parameters in (first, second):
        recipe = load_recipe(parameters["recipe"], parameters["overrides"])
        check_recipe(recipe)
        assert recipe.launch.settings.kubernetes.pod.gpu_resource == ""
        steps = Selection.of(recipe, parameters["steps"]).steps(recipe)
        assert steps == ["data_fetch", "prepare", "preflight", "0.vision"]
    assert kfp.runs[0]["pipeline_version_reference"]["pipeline_id"] == LADDER_PIPELINE


def test_a_run_that_fails_and_a_job_that_stays_are_told(kfp: FakeKfp) -> None:
    kfp.states = {"run-1": "FAILED", "run-2": "RUNNING"}
    (ran, why), (stopped, left) = _outcomes(kfp, [1])
    assert (ran, stopped) == (False, False)
    assert "it is FAILED" in why
    assert f"{kfp.endpoint}/#/runs/details/run-1" in why
    assert "its job is still there" in left


def test_a_run_that_starts_no_job_is_not_waited_for_for_ever(kfp: FakeKfp) -> None:
    kfp.states = {"run-1": "SUCCEEDED"}
    (ran, _), (stopped, why) = _outcomes(kfp, [0])
    assert (ran, stopped) == (True, False)
    assert "it started no job" in why
    assert kfp.terminated == []
