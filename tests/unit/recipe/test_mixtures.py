"""V18: mixtures as versioned manifests: what they name, what a stage makes of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.helpers.errors import raises_code
from vita_train.cli.main import build_app
from vita_train.data.catalogue.load import load_catalogue
from vita_train.data.sampling.mix import Mix
from vita_train.errors import DataError, RecipeError, UserError
from vita_train.preflight.run import _source as check_sources
from vita_train.recipe.load import dump_recipe, load_recipe
from vita_train.recipe.mixtures import expand, load_mixture, mixture_names

STAGES = {"align", "pretrain", "sft"}


def test_v18_every_shipped_mixture_is_sound() -> None:
    catalogue = load_catalogue()
    assert mixture_names() == ["vila-1", "vila-1.5", "vila-1.5-readme"]
    for name in mixture_names():
        mixture = load_mixture(name)
        assert (mixture.name, mixture.version) == (name, 1)
        assert set(mixture.stages) == STAGES
        for made in mixture.datasets.values():
            assert all(entry in catalogue.entries for entry in made.entries)


def test_v18_the_published_tables() -> None:
    assert load_mixture("vila-1").stages["align"] == ("llava_1_5_mm_align",)
    assert set(load_mixture("vila-1").stages["pretrain"]) == {"mmc4core", "coyo_25m"}
    assert set(load_mixture("vila-1.5").stages["pretrain"]) == {
        *("coyo_25m", "mmc4core", "sharegpt4v_pretrain")
    }
    assert len(load_mixture("vila-1.5").stages["sft"]) == 19
    assert len(load_mixture("vila-1.5-readme").stages["sft"]) == 11
    for name, part in (("vila-1", "vila-1"), ("vila-1.5", "vila-1.5-3b")):
        recipe = load_recipe(part)
        for stage, names in load_mixture(name).stages.items():
            assert recipe.stages[stage].data == dict.fromkeys(names, 1.0)


def test_v18_a_stage_keeps_what_a_mixture_became() -> None:
    text = "stages.pretrain.data=vila-1/pretrain@0.5+mine@2+more"
    recipe = load_recipe("vila-1.5-3b", [text])
    expected = {"coyo_25m": 0.5, "mmc4core": 0.5, "mine": 2.0, "more": 1.0}
    assert recipe.stages["pretrain"].data == expected
    assert load_recipe(dump_recipe(recipe)) == recipe
    assert expand({"a": 1.0}) == {"a": 1.0}


@pytest.mark.parametrize("size", [1, 7, 1000, 1001])
def test_v18_a_share_of_half_is_half_within_a_row(size: int) -> None:
    shares = expand("half@0.5+whole")
    mix = Mix({"half": size, "whole": size}, shares, seed=3)
    refs = mix.window(0, 0, mix.epoch_size(0))
    taken = int((refs.dataset == mix.names.index("half")).sum())
    assert abs(taken - size / 2) < 1
    assert len(refs) - taken == size


@pytest.mark.parametrize(
    ("data", "facts"),
    [
        ("vila-1.6/sft", ["vila-1.6", "vila-1.5"]),
        ("vila-1/stft", ["stft", "align, pretrain, sft"]),
        ("a@", ["a@"]),
        ("a@-1", ["a@-1"]),
        ("a@nan", ["a@nan"]),
        ("a++b", ["''"]),
        ("a+b+a@0.5", ["names a twice"]),
        ("vila-1/align+llava_1_5_mm_align", ["llava_1_5_mm_align twice"]),
    ],
)
def test_v18_what_a_mixture_is_not(data: str, facts: list[str]) -> None:
    with raises_code(RecipeError, "VT-RECIPE-047", "stages.sft.data", *facts):
        load_recipe("vila-1", [f"stages.sft.data={data}"])


def registry_of(path: Path, names: set[str]) -> Path:
    path.with_name("a.json").write_text("[]")
    split = {"records": "a.json"}
    datasets = {name: {"task": "caption", "train": split} for name in names}
    path.write_text(json.dumps({"format": "vita-train/registry/v1", "datasets": datasets}))
    return path


def test_v18_a_dataset_that_no_source_has_is_told_before_anything_runs(tmp_path: Path) -> None:
    mixture = load_mixture("vila-1")
    registry = registry_of(tmp_path / "r.json", set(mixture.datasets) - {"mmc4core"})
    recipe = load_recipe("vila-1", [f"data.source.own.registry={registry}"])
    with raises_code(UserError, "VT-USE-078", "mmc4core"):
        check_sources(recipe)
    command = ["data", "mixture", "vila-1", "--registry", str(registry)]
    result = CliRunner().invoke(build_app(), command)
    assert isinstance(result.exception, DataError)
    assert "mmc4core" in str(result.exception)
    registry_of(registry, set(mixture.datasets))
    check_sources(recipe)
    assert CliRunner().invoke(build_app(), command).exit_code == 0


def test_v18_the_command_shows_datasets_with_where_they_come_from() -> None:
    listed = CliRunner().invoke(build_app(), ["data", "mixture"]).output
    assert all(name in listed for name in mixture_names())
    shown = CliRunner().invoke(build_app(), ["data", "mixture", "vila-1.5"]).output
    assert all(name in shown for name in load_mixture("vila-1.5").datasets)
    assert "coyo-700m" in shown
    result = CliRunner().invoke(build_app(), ["data", "mixture", "vila"])
    assert isinstance(result.exception, UserError)
