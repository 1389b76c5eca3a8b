"""A run from the parameters of a pipeline: what is left empty, where it may lie, its name, and how
an error ends a step."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from vita_train import recipe as recipes
from vita_train.errors import EXIT_REFUSED, RecipeError, UserError
from vita_train.pipeline.opening import on_the_page, open_run, reachable, shown_on
from vita_train.recipe.load import load_recipe, one_line
from vita_train.recipe.platform import WORKFLOW, Platform
from vita_train.recipe.sources import RecordsSource
from vita_train.runs.dated import dated

PRESETS = Path(recipes.__file__).parent / "presets"


def test_open_run_writes_the_resolved_recipe_and_reads_text(tmp_path: Path) -> None:
    text = (PRESETS / "smoke.yaml").read_text()
    run, selection = open_run(text, "", str(tmp_path), ["seed=7"], steps="..prepare")
    assert (run.recipe.seed, run.name, selection.steps(run.recipe)) == (
        7,
        "smoke",
        ["data_fetch", "prepare"],
    )
    assert load_recipe(str(tmp_path / "smoke" / "recipe.yaml")) == run.recipe
    again, _ = open_run((tmp_path / "smoke" / "recipe.yaml").as_uri())
    assert again == run


def test_a_recipe_in_one_line_may_name_what_lies_in_a_store(tmp_path: Path) -> None:
    mine = RecordsSource(registry="s3://mine/registry.json")
    data = load_recipe("smoke").data.model_copy(update={"source": {"mine": mine}})
    text = one_line(load_recipe("smoke").model_copy(update={"data": data}))
    assert open_run(text, "", str(tmp_path))[0].recipe.data.source == {"mine": mine}


STORE = "s3://omni/runs"


@pytest.mark.parametrize(
    ("root", "is_asked_for", "platform", "lies"),
    [
        ("runs", False, None, "runs"),
        ("runs", False, Platform(backend="local", store=STORE), "runs"),
        ("runs", False, Platform(store=STORE), STORE),
        ("s3://mine/runs", False, Platform(store=STORE), "s3://mine/runs"),
        ("s3://mine/runs", True, Platform(), "s3://mine/runs"),
        ("runs", False, Platform(), None),
        ("/tmp/runs", True, Platform(store=STORE), None),
    ],
)
def test_runs_lie_where_every_step_reaches_them(
    root: str, is_asked_for: bool, platform: Platform | None, lies: str | None
) -> None:
    recipe = load_recipe("smoke", [f"storage.root={root}"])
    if lies is None:
        with pytest.raises(RecipeError) as caught:
            reachable(recipe, platform, is_asked_for=is_asked_for)
        assert caught.value.where == ("storage_root" if is_asked_for else "storage.root")
        return
    found = reachable(recipe, platform, is_asked_for=is_asked_for)
    assert found.storage.root == lies
    assert found.model_copy(update={"storage": recipe.storage}) == recipe, "nothing else changes"


def test_a_date_is_filled_in_once_for_all_steps_of_a_workflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def name(workflow: str, day: int) -> str:
        monkeypatch.setenv(WORKFLOW, workflow)

        class Clock(datetime):
            @classmethod
            def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
                return datetime(2026, 3, day, 23, 59, tzinfo=UTC)

        monkeypatch.setattr("vita_train.pipeline.opening.datetime", Clock)
        return open_run("smoke", "nightly-{date}", str(tmp_path))[0].name

    assert name("run-a", 1) == "nightly-2026-03-01"
    assert name("run-a", 2) == "nightly-2026-03-01", "a step after midnight is of the same run"
    assert name("run-b", 2) == "nightly-2026-03-02"


def test_the_first_step_of_a_workflow_resolves_the_recipe_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine.yaml"

    def seed(workflow: str, written: int, *, is_first: bool = False) -> int:
        monkeypatch.setenv(WORKFLOW, workflow)
        file.write_text((PRESETS / "smoke.yaml").read_text() + f"\nseed: {written}\n")
        run, _ = open_run(file.as_uri(), "", str(tmp_path / "runs"), is_first=is_first)
        assert load_recipe(str(tmp_path / "runs" / "smoke" / "recipe.yaml")) == run.recipe
        return run.recipe.seed

    assert seed("a", 1, is_first=True) == 1
    assert seed("a", 2) == 1, "edited while the pipeline runs"
    assert seed("b", 3) == 3, "another pipeline; one of a single stage has no first step"
    assert seed("a", 2, is_first=True) == 2, "tried again from its first step"
    assert seed("a", 4) == 2


def test_names_are_filled_in_with_what_there_is() -> None:
    moment = datetime(2026, 3, 1, 7, 5, tzinfo=UTC)
    assert dated("a-{date}-{time}", moment) == "a-2026-03-01-0705"
    assert dated("plain", moment) == "plain"
    with pytest.raises(UserError) as caught:
        dated("a-{day}", moment)
    assert "date or time" in caught.value.remedy


def test_an_error_is_the_last_of_the_log_and_has_no_traceback() -> None:
    program = (
        "from vita_train.errors import RecipeError\n"
        "from vita_train.pipeline.opening import one_message\n"
        "with one_message():\n"
        "    raise RecipeError('too few', code='VT-X-1', remedy='give --set stages.1=2')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], text=True, capture_output=True, check=False
    )
    assert done.returncode == EXIT_REFUSED
    assert done.stderr == "error: too few (give the override stages.1=2) [VT-X-1]\n"


def test_a_refused_run_has_a_page_that_says_why(tmp_path: Path) -> None:
    page = SimpleNamespace(path=str(tmp_path / "page.html"))
    with shown_on(page):
        raise RecipeError("<b> is no stage", code="VT-X-1", remedy="give --set stages.1=2")
    text = (tmp_path / "page.html").read_text()
    assert "&lt;b&gt; is no stage (give the override stages.1=2) [VT-X-1]" in text


def test_other_options_are_not_renamed() -> None:
    assert on_the_page("add --set a.b=1 or --settle x") == "add the override a.b=1 or --settle x"
