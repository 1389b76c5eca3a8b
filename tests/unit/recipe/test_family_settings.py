"""A recipe names its family; what the family is known by comes with it, wherever the recipe itself
says nothing."""

from __future__ import annotations

import pytest

from tests.helpers.errors import raises_code
from vita_train.errors import RecipeError
from vita_train.models.build import build_modules
from vita_train.recipe.check import check_recipe
from vita_train.recipe.family import FAMILIES
from vita_train.recipe.load import dump_recipe, load_recipe

RECIPE = """\
name: mine
model: {llm: {family: FAMILY, source: somewhere MORE}, speech_decoder: {width: 512, num_heads: 8}}
data: {source: {own: {kind: records, registry: r.json}}, max_reject_share: 0.5}
stages:
  1.1: {objective: next_token, data: {caption: 1}, trainable: {projector: 2e-3, vision: 1e-3},
        steps: 5}
"""
HEARS = (
    "  2.2: {objective: next_token, data: {talk: 1}, trainable: {audio_encoder: 1e-3, "
    "audio_adapter: 1e-3 MORE}, "
    "steps: 5}\n"
)
#: Parameters of the published models; of Qwen2.5-7B in test_build.
SIZES = {
    "nemo": 12_247_782_400,
    "mixtral-8x7b": 46_702_792_704,
    "llama3-8b": 8_030_261_248,
    "qwen2p5_fo_instruct": 7_615_616_512,
}


def text(family: str, more: str = "") -> str:
    return RECIPE.replace("FAMILY", family).replace("MORE", more)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_brings_its_template_and_reads_back_the_same(family: str) -> None:
    recipe = load_recipe(text(family))
    assert recipe.model.llm.family == family
    assert recipe.data.template == FAMILIES[recipe.model.llm.family].template
    assert recipe.data.state_mode == ("head" if family == "qwen2p5_fo_instruct" else "glyph")
    assert recipe.data.max_reject_share == 0.5
    assert load_recipe(dump_recipe(recipe)) == recipe


@pytest.mark.parametrize("family", SIZES)
def test_sizes_are_those_of_the_published_model(family: str) -> None:
    import torch

    with torch.device("meta"):
        modules = build_modules(load_recipe(text(family)).model, ["llm", "state_head"])
    counts = {
        name: sum(parameter.numel() for parameter in module.parameters())
        for name, module in modules.items()
    }
    width = load_recipe(text(family)).model.llm.hidden_size
    assert counts == {"llm": SIZES[family], "state_head": 3 * width + 3}


def test_what_the_recipe_says_counts() -> None:
    recipe = load_recipe(
        text("nemo", ", num_layers: 2"), ["data.template=mine.yaml", "model.llm.hidden_size=1024"]
    )
    assert (
        recipe.model.llm.num_layers,
        recipe.model.llm.head_dim,
        recipe.model.llm.hidden_size,
    ) == (2, None, 1024)
    assert recipe.model.llm.vocab_size == 131072
    assert recipe.data.template == "mine.yaml"
    assert load_recipe(dump_recipe(recipe)) == recipe
    assert load_recipe(text("nemo", ", num_layers: 2")).model.llm.head_dim == 128
    by_option = load_recipe(
        text("nemo"), ["model.llm.family=mixtral-8x7b", "model.llm.moe.num_local_experts=4"]
    )
    assert by_option.data.template == "mixtral_two"
    assert by_option.model.llm.moe is not None
    assert by_option.model.llm.moe.model_dump() == {
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "router_aux_loss_coef": 0.02,
    }


@pytest.mark.parametrize(
    ("family", "more", "facts"),
    [
        (
            "qwen2",
            "",
            ["llm.family", "qwen2p5_instruct, qwen2p5_fo_instruct, nemo, mixtral-8x7b, llama3-8b"],
        ),
        ("nemo", ", moe: {}", ["moe", "nemo"]),
        ("mixtral-8x7b", ", moe: null", ["moe", "mixtral-8x7b"]),
        (
            "mixtral-8x7b",
            ", moe: {num_experts_per_tok: 9}",
            ["model.llm.moe", "num_experts_per_tok 9", "num_local_experts 8"],
        ),
    ],
)
def test_what_does_not_go_together_is_refused(family: str, more: str, facts: list[str]) -> None:
    with raises_code(RecipeError, "VT-RECIPE-047", "recipe:2", *facts):
        load_recipe(text(family, more))


def test_marks_and_a_state_head_are_not_mixed() -> None:
    head = HEARS.replace("MORE", ", state_head: 1e-3")
    check_recipe(load_recipe(text("qwen2p5_fo_instruct") + head))
    check_recipe(load_recipe(text("nemo") + head, ["data.state_mode=head"]))
    check_recipe(load_recipe(text("qwen2p5_fo_instruct")))  # nothing is heard
    for recipe, facts in (
        (
            load_recipe(text("qwen2p5_fo_instruct") + HEARS.replace("MORE", "")),
            ["state_head", "data.state_mode"],
        ),
        (load_recipe(text("nemo") + head), ["stages.2.2", "state_head", "glyph"]),
        (
            load_recipe(text("qwen2p5_fo_instruct"), ["data.state_mode=digit"]),
            ["qwen2p5_fo_instruct", "data.state_mode", "digit"],
        ),
    ):
        with raises_code(RecipeError, "VT-RECIPE-027", *facts):
            check_recipe(recipe)
