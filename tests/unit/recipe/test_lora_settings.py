"""Settings of adapters and quantised weights: contradictions are told with their place, and other
recipes stay."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.helpers.errors import raises_code
from vita_train.errors import RecipeError
from vita_train.recipe.check import check_recipe
from vita_train.recipe.load import dump_recipe, load_recipe, parse_recipe
from vita_train.recipe.presets import preset_names

GOOD = """\
name: mine
model: {llm: {source: there}, vision: {source: there}}
stages:
  1.2:
    objective: next_token
    data: {caption: 1}
    trainable: {llm: 1e-4, projector: 1e-3}
    engine: {kind: deepspeed, zero: 2}
    lora:
      rank: 8
      roles: [attention]
    quantize: {kind: nf4}
    steps: 5
data: {source: {own: {kind: records, registry: r.json}}}
"""
LORA = "    lora:\n      rank: 8\n      roles: [attention]\n"


def test_settings_are_read_and_read_back() -> None:
    recipe = load_recipe(GOOD)
    check_recipe(recipe)
    spec = recipe.stages["1.2"]
    assert spec.lora is not None
    assert spec.quantize is not None
    assert (spec.lora.rank, spec.lora.alpha, spec.lora.roles, spec.adapted) == (
        8,
        16,
        ("attention",),
        ("llm",),
    )
    assert (spec.quantize.bits, spec.quantize.double) == (4, True)
    assert load_recipe(dump_recipe(recipe)) == recipe


@pytest.mark.parametrize(
    ("change", "line", "words"),
    [
        (
            ("[attention]", "[router]"),
            11,
            ["stages.1.2.lora.roles", "llm has no layers of role 'router'", "attention"],
        ),
        (("[attention]", "[atention]"), 11, ["stages.1.2.lora.roles", "did you mean 'attention'"]),
        (("[attention]", "[]"), 11, ["stages.1.2.lora.roles", "names no role"]),
        (
            ("rank: 8", "modules: [projector]"),
            10,
            ["stages.1.2.lora.modules", "projector cannot have adapters"],
        ),
        (
            ("rank: 8", "modules: [vision]"),
            9,
            ["stages.1.2.lora", "names vision, which trainable does not"],
        ),
        (("rank: 8", "bias: some"), 10, ["stages.1.2.lora.bias", "some"]),
        (("rank: 8", "bias: all"), 12, ["stages.1.2.quantize", "set lora.bias to none"]),
        (
            ("rank: 8", "rnk: 8"),
            10,
            ["unknown key 'rnk' in stages.1.2.lora", "did you mean 'rank'"],
        ),
        (
            ("zero: 2", "zero: 3"),
            12,
            ["stages.1.2.quantize", "ZeRO-3 cuts every matrix", "engine.zero 2"],
        ),
        (
            ("{kind: deepspeed, zero: 2}", "{kind: fsdp2}"),
            12,
            ["stages.1.2.quantize", "fsdp2 cuts every matrix"],
        ),
        ((LORA, ""), 9, ["stages.1.2.quantize", "quantised weights cannot be trained", "lora"]),
        (("kind: nf4", "kind: int4"), 12, ["stages.1.2.quantize.kind", "int4"]),
        (
            ("kind: deepspeed, zero: 2}", "kind: torch}\n    optim: {kind: muon}"),
            10,
            ["stages.1.2.lora", "use adamw"],
        ),
    ],
)
def test_a_contradiction_is_named_with_its_line(
    tmp_path: Path, change: tuple[str, str], line: int, words: list[str]
) -> None:
    path = tmp_path / "mine.yaml"
    assert change[0] in GOOD
    path.write_text(GOOD.replace(*change))
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(path))
    assert f"mine.yaml:{line}:" in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_other_objectives_have_neither() -> None:
    text = GOOD.replace("next_token", "caption_words").replace("llm: 1e-4, projector", "vision")
    with raises_code(RecipeError, "VT-RECIPE-047", "stages.1.2.lora", "caption_words"):
        parse_recipe(
            text.replace("rank: 8", "modules: [vision]").replace("    quantize: {kind: nf4}\n", ""),
            "m",
        )
    with raises_code(RecipeError, "VT-RECIPE-047", "stages.1.2.quantize"):
        parse_recipe(text.replace(LORA, ""), "m")


def test_a_frozen_language_model_may_be_quantised_without_adapters() -> None:
    recipe = load_recipe(GOOD.replace(LORA, "").replace("llm: 1e-4, ", ""))
    assert recipe.stages["1.2"].quantize is not None


def test_adapters_need_weights_to_stand_on() -> None:
    recipe = load_recipe(GOOD.replace("llm: {source: there}, ", ""))
    with raises_code(RecipeError, "VT-RECIPE-027", "stages.1.2", "llm"):
        check_recipe(recipe)


@pytest.mark.parametrize("name", preset_names())
def test_stages_without_them_say_nothing_of_them(name: str) -> None:
    """What a stage says of itself is what its digest is made of."""
    for spec in load_recipe(name).stages.values():
        dumped = json.loads(spec.model_dump_json(exclude={"gates", "eval", "checkpoint_interval"}))
        assert not {"lora", "quantize", "gates"} & set(dumped)
        assert {"objective", "engine", "optim"} <= set(dumped)
