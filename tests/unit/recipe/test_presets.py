"""A shipped recipe that is not tested does not exist."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from tests.helpers.errors import raises_code
from vita_train.errors import RecipeError
from vita_train.recipe.check import check_recipe
from vita_train.recipe.diff import differences
from vita_train.recipe.graph import uncovered
from vita_train.recipe.json_schema import recipe_json_schema
from vita_train.recipe.load import dump_recipe, load_recipe
from vita_train.recipe.presets import describe_presets, preset_names
from vita_train.recipe.selection import stage_graph
from vita_train.recipe.sources import SynthWorld

STAGES = ("0.llm", "0.vision", "1.1", "1.2", "1.3", "2.1a", "2.1b", "2.2", "3.1", "3.2")
AURORACAP = ("auroracap-7b", "auroracap-tiny")
VILA = ("vila-1", "vila-1.5-3b", "vila-tiny")
DATASETS = {
    "recall",
    "lookup",
    "caption",
    "textqa",
    "instruct",
    "dialogue",
    "vqa",
    "multi_image",
    "video",
    "asr",
    "speech_qa",
    "negative",
    "tts",
}


def test_what_is_shipped() -> None:
    assert preset_names() == [
        *(*AURORACAP, "mini", "smoke", "stamps", "tiny", *VILA, "vita-1.5-7b")
    ]
    assert all(describe_presets().values())


@pytest.mark.parametrize("name", preset_names())
def test_preset_resolves_and_reads_back(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    check_recipe(recipe)
    text = dump_recipe(recipe)
    assert load_recipe(text) == recipe
    assert dump_recipe(load_recipe(text)) == text
    # For readers of YAML 1.1 too, to whom a bare ``off`` is false.
    assert _words(yaml.safe_load(text)) == _words(recipe.model_dump(mode="json"))
    if any(isinstance(source, SynthWorld) for source in recipe.data.source.values()):
        crawled = {"documents", "pairs"} if name == "vila-tiny" else set()
        assert all(set(spec.data) <= DATASETS | crawled for spec in recipe.stages.values())


def _words(value: Any) -> list[str]:
    """Return every text in a tree of plain values that does not begin as a number."""
    if isinstance(value, dict):
        return [word for key in value if key != "settings" for word in _words(value[key])]
    if isinstance(value, list):
        return [word for each in value for word in _words(each)]
    return [value] if isinstance(value, str) and not re.match(r"[\d.]", value) else []


def test_smoke_has_every_stage_and_no_gates() -> None:
    recipe = load_recipe("smoke")
    assert tuple(recipe.stages) == STAGES
    for spec in recipe.stages.values():
        assert (spec.steps or 99) <= 4
        assert spec.gates == {}


#: Settings in which the two may differ, as patterns of their names.
SIZES = (
    r"name|tokenizer\.\w+|launch\..*|data\.source\..*|data\.video\.max_frames",
    r"model\.(llm|vision)\.source",
    r"model\.\w+\.(vocab_size|\w*hidden_size|num_\w+|\w*intermediate_size|max_\w+|image_size|"
    r"patch_size|width|channels|codebook_size|code_dim|global_dim|segment|\w+_layers)",
    r"stages\.0\..*",
    r"stages\.[\w.]+\.(steps|epochs|max_steps|checkpoint_interval|eval\.\w+)",
    r"stages\.[\w.]+\.batch\.(global_batch_size|grad_accum|seq_len)",
    r"stages\.[\w.]+\.(engine\.(kind|zero)|optim\.warmup|after)",
)


def test_mini_is_the_real_recipe_but_for_sizes() -> None:
    found = differences(load_recipe("vita-1.5-7b"), load_recipe("mini"))
    others = [str(one) for one in found if not re.fullmatch("|".join(SIZES), one.setting)]
    assert others == []
    names = {one.setting for one in found}
    assert {"model.llm.hidden_size", "model.codec.channels", "stages.1.2.steps"} <= names
    smaller = differences(load_recipe("vita-1.5-7b"), load_recipe("smoke"))
    assert any(not re.fullmatch("|".join(SIZES), one.setting) for one in smaller)


def test_the_shipped_ladder_is_a_graph() -> None:
    graph = stage_graph(load_recipe("tiny"))
    assert {stage for stage, after in graph.items() if not after} == {
        "0.llm",
        "0.vision",
        "2.1a",
        "3.1",
    }
    assert graph["2.1b"] == ("1.3", "2.1a")
    assert graph["2.2"] == ("2.1b",)
    assert graph["3.2"] == ("2.2", "3.1")
    # Every other one but AuroraCap's and VILA's runs on the pipeline that is compiled for it.
    for name in set(preset_names()) - {*AURORACAP, *VILA}:
        assert not uncovered(graph, stage_graph(load_recipe(name)))


def test_real_recipe_has_vita_s_shapes() -> None:
    recipe = load_recipe("vita-1.5-7b")
    model = recipe.model
    assert tuple(recipe.stages) == STAGES[2:]
    assert (model.llm.vocab_size, model.llm.hidden_size, model.llm.num_layers) == (152064, 3584, 28)
    assert model.tokens_per_tile == 256
    assert model.vision.feature_size == 4096
    assert model.codec.sample_rate / model.codec.hop_length == 40
    # one packed row at a time on each process
    for name in ("1.1", "1.2", "1.3", "2.1b", "2.2"):
        batch = recipe.stages[name].batch
        assert batch.global_batch_size == recipe.launch.ranks * batch.grad_accum
    trained = {name: set(spec.trainable) for name, spec in recipe.stages.items()}
    assert trained == {
        "1.1": {"projector"},
        "1.2": {"llm", "projector", "vision"},
        "1.3": {"llm", "projector", "vision"},
        "2.1a": {"audio_encoder", "ctc_head"},
        "2.1b": {"audio_adapter"},
        "2.2": {"llm", "projector", "vision", "audio_encoder", "audio_adapter"},
        "3.1": {"codec", "discriminators"},
        "3.2": {"speech_decoder"},
    }


@pytest.mark.parametrize(
    ("settings", "code", "facts"),
    [
        (["stages={}"], "VT-RECIPE-027", ["stages"]),
        (
            ["stages.0.llm=null", "stages.1.1.after=[0.vision]"],
            "VT-RECIPE-027",
            ["stages.1.1", "llm"],
        ),
        (["stages.2.1b.after=[1.3]"], "VT-RECIPE-027", ["stages.2.1b", "audio_encoder"]),
        (["stages.3.2.after=[2.2]"], "VT-RECIPE-027", ["stages.3.2", "codec"]),
        (
            ["stages.2.1b.trainable={audio_prompt: 1.0e-3}"],
            "VT-RECIPE-027",
            ["stages.2.1b", "audio_prompt", "prompt_tokens is 0"],
        ),
        (
            ["model.audio_adapter.prompt_tokens=25"],
            "VT-RECIPE-027",
            ["stages.2.1b", "audio_prompt"],
        ),
        (
            ["launch.nproc=17"],
            "VT-RECIPE-027",
            ["stages.1.1.batch.global_batch_size 16", "17 ranks x batch.grad_accum 1"],
        ),
        (
            ["launch.nproc=4", "stages.1.1.batch.grad_accum=8"],
            "VT-RECIPE-027",
            ["stages.1.1.batch.global_batch_size 16", "4 ranks x batch.grad_accum 8"],
        ),
        (
            ["stages.1.1.batch.seq_len=5000"],
            "VT-RECIPE-027",
            ["stages.1.1.batch.seq_len 5000", "model.llm.max_positions 1024"],
        ),
        (["tokenizer.vocab_size=4096"], "VT-RECIPE-027", ["tokenizer.vocab_size 4096"]),
        (["model.codec.kind=waveform"], "VT-RECIPE-047", ["hop_length is 400"]),
        (["model.speech_decoder.num_heads=3"], "VT-RECIPE-027", ["width 160", "num_heads 3"]),
        (["data.image.min_tiles=3"], "VT-RECIPE-047", ["min_tiles 3", "max_tiles 1"]),
    ],
)
def test_contradictions_are_found(settings: list[str], code: str, facts: list[str]) -> None:
    with raises_code(RecipeError, code, *facts):
        check_recipe(load_recipe("tiny", settings))


def test_schema_speaks_of_every_setting() -> None:
    schema = json.loads(json.dumps(recipe_json_schema()))
    assert re.search(schema["properties"]["stages"]["propertyNames"]["pattern"], "my-stage")
    stage = schema["$defs"]["StageSpec"]
    assert stage["additionalProperties"] is False
    assert "Optimizer steps" in stage["properties"]["steps"]["description"]


def test_a16_auroracap_trains_what_it_published() -> None:
    real, small = load_recipe("auroracap-7b"), load_recipe("auroracap-tiny")
    parts = [set(spec.trainable) for spec in real.stages.values()]
    assert parts == [
        {"projector"},
        {"projector", "vision"},
        {"llm", "projector", "vision"},
    ]
    assert [set(small.stages[name].trainable) for name in real.stages] == parts
    rates = [set(spec.trainable.values()) for spec in real.stages.values()]
    assert rates == [{2e-4}, {1e-4}, {2e-5}]
    vision = real.model.vision
    assert (vision.num_tokens, vision.num_blocks, vision.merged_tokens) == (729, 31, 109)
    assert [spec.merge_visual_tokens for spec in real.stages.values()] == [False, False, True]
    assert real.model.llm.rope_factor == 4


def test_vila_trains_what_it_published() -> None:
    first, second, small = (load_recipe(name) for name in VILA)
    rates = [
        [set(spec.trainable.values()) for spec in one.stages.values()] for one in (first, second)
    ]
    assert rates == [[{1e-3}, {5e-5}, {2e-5}], [{1e-3}, {5e-5}, {1e-4}]]
    parts = [{"projector"}, {"llm", "projector"}]
    assert [set(spec.trainable) for spec in first.stages.values()] == [*parts, parts[1]]
    trained = [*parts, {"llm", "projector", "vision"}]
    assert [set(spec.trainable) for spec in second.stages.values()] == trained
    assert [set(small.stages[name].trainable) for name in second.stages] == trained
    for recipe in (first, second):
        for spec in recipe.stages.values():
            assert (spec.epochs, spec.optim.warmup, spec.optim.schedule) == (1, 0.03, "cosine")
            assert (spec.optim.weight_decay, spec.batch.seq_len) == (0, 4096)
            # one packed row at a time on each process
            assert spec.batch.global_batch_size == recipe.launch.ranks * spec.batch.grad_accum
        engines = [(spec.engine.kind, spec.engine.zero) for spec in recipe.stages.values()]
        assert [kind for kind, _ in engines] == ["torch", "deepspeed", "deepspeed"]
        assert {zero for kind, zero in engines if kind == "deepspeed"} == {3}
    vision, llm = second.model.vision, second.model.llm
    assert (vision.num_tokens, vision.num_blocks, second.model.tokens_per_tile) == (729, 26, 196)
    assert (llm.hidden_size, llm.num_layers, llm.num_heads, llm.vocab_size) == (2560, 32, 20, 32000)
    assert (first.model.vision.num_blocks, first.model.tokens_per_tile) == (23, 576)
