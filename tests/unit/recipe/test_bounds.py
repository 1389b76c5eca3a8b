"""Numbers that cannot be right are refused when a recipe is read, with their line."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
from pydantic import BaseModel

from tests.helpers.errors import raises_code
from vita_train.data.sources.records import Record
from vita_train.data.sources.registry import Registry
from vita_train.errors import RecipeError
from vita_train.recipe.load import load_recipe, parse_recipe
from vita_train.recipe.objectives import OBJECTIVES, Between
from vita_train.recipe.platform import Platform
from vita_train.recipe.schema import Recipe

GOOD = """\
name: mine
stages:
  0.llm:
    objective: next_token
    data: {caption: 1}
    trainable: {llm: 2e-3}
    steps: 5
data: {source: {own: {kind: records, registry: r.json}}}
"""


def unbounded(schema: Any, path: str = "") -> Iterator[str]:
    """Paths of the numbers in a JSON schema that lack a lower or an upper bound."""
    if isinstance(schema, dict):
        if schema.get("type") in ("integer", "number") and not {"const", "enum"} & schema.keys():
            low = {"minimum", "exclusiveMinimum"} & schema.keys()
            high = {"maximum", "exclusiveMaximum"} & schema.keys()
            if not (low and high):
                yield path
        for key, inner in schema.items():
            yield from unbounded(inner, f"{path}/{key}")
    elif isinstance(schema, list):
        for inner in schema:
            yield from unbounded(inner, path)


@pytest.mark.parametrize("model", [Recipe, Platform, Registry, Record])
def test_every_number_has_bounds(model: type[BaseModel]) -> None:
    assert list(unbounded(model.model_json_schema())) == []


def test_a_number_without_bounds_would_be_found() -> None:
    class Loose(BaseModel):
        inner: dict[str, list[int | None]]

    assert list(unbounded(Loose.model_json_schema()))


def test_options_are_declared_as_the_objectives_know_them() -> None:
    for spec in (OBJECTIVES[name] for name in OBJECTIVES):
        module, _, name = spec.implementation.partition(":")
        known = getattr(import_module(module), name).options
        assert spec.options is not None
        assert set(known) == set(spec.options)
        for option, default in known.items():
            kind = spec.options[option]
            if isinstance(kind, Between):
                assert kind.low <= default <= kind.high
            elif isinstance(kind, tuple):
                assert default in kind
            else:
                assert isinstance(default, kind)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("stages.0.llm.trainable.llm", "-1.0e-3"),
        ("stages.0.llm.trainable.llm", "0"),
        ("stages.0.llm.trainable.llm", "1e30"),
        ("stages.0.llm.optim.betas", "[2.0, -1.0]"),
        ("stages.0.llm.optim.betas", "[0.9, 1.0]"),
        ("stages.0.llm.optim.eps", "0"),
        ("stages.0.llm.optim.weight_decay", "-0.1"),
        ("stages.0.llm.optim.max_grad_norm", "-1.0"),
        ("stages.0.llm.optim.schedule", "exponential"),
        ("stages.0.llm.eval.max_samples", "0"),
        ("stages.0.llm.eval.interval", "-1"),
        ("stages.0.llm.eval.batches", "-1"),
        ("stages.0.llm.checkpoint_interval", "-5"),
        ("stages.0.llm.data", "{textqa: 0.0}"),
        ("stages.0.llm.data", "{textqa: -1}"),
        ("stages.0.llm.curriculum", "[{steps: 1, data: {recall: -1}}]"),
        ("stages.0.llm.curriculum", "[{steps: 1, data: {}}]"),
        ("stages.0.llm.gates", "{a.b: {min: 2, max: 1}}"),
        ("stages.0.llm.options", "{chunk: -1}"),
        ("stages.0.llm.options", "{chunk: 1.5}"),
        ("stages.0.llm.options", "{augment: 1}"),
        ("stages.0.llm.options", "{chunks: 1}"),
        ("stages.3.2.options", "{prefix: both}"),
        ("stages.3.2.options", "{prefix: true}"),
        ("stages.0.llm.batch.max_tiles", "-1"),
        ("model.llm.num_layers", "0"),
        ("model.llm.vocab_size", "100000000000000000"),
        ("model.llm.num_kv_heads", "3"),
        ("model.llm.num_heads", "27"),
        ("model.llm.head_dim", "63"),
        ("model.llm.rms_norm_eps", "-1"),
        ("model.vision.patch_size", "0"),
        ("model.vision.num_heads", "0"),
        ("model.vision.shuffle", "0"),
        ("model.vision.std", "[0, 1, 1]"),
        ("model.audio_encoder.num_heads", "0"),
        ("model.audio_encoder.dropout", "1"),
        ("model.audio_encoder.num_mel_bins", "2"),
        ("model.audio_adapter.stride", "0"),
        ("model.speech_decoder.width", "0"),
        ("model.codec.codebook_size", "0"),
        ("model.codec.num_global_tokens", "3"),
        ("model.codec.global_dim", "8"),
        ("model.codec.hop_length", "601"),
        ("model.codec.upsample_kernels", "[1, 1, 1, 1]"),
        ("model.codec.segment", "10"),
        ("model.codec.code_groups", "0"),
        ("model.codec.code_groups", "3"),
        ("model.codec.code_residuals", "65"),
        ("model.codec.variant", "encodec"),
        ("model.codec", "{variant: ticodec, segment: 2000}"),
        ("data.video.short", "repeat"),
        ("data.image.min_tiles", "13"),
        ("data.video.min_frames", "17"),
        ("data.audio.min_seconds", "61"),
        ("data.audio.max_seconds", "0"),
        ("data.audio.sample_rate", "0"),
        ("data.max_reject_share", "1.1"),
        ("seed", "4294967296"),
        ("launch.nproc", "0"),
        ("launch.step_timeout", "-1"),
        ("storage.keep_last", "0"),
    ],
)
def test_what_cannot_be_right_is_refused_with_its_place(key: str, value: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(GOOD, "m.yaml", [f"{key}={value}"])
    assert caught.value.code in ("VT-RECIPE-043", "VT-RECIPE-047", "VT-RECIPE-048")
    message = str(caught.value)
    assert key.rpartition(".")[2] in message
    assert "m.yaml:" in message or f"--set {key}" in message


def test_the_line_is_that_of_the_file() -> None:
    with raises_code(
        RecipeError, "VT-RECIPE-048", "stages.0.llm.trainable.llm", "-0.002"
    ) as caught:
        parse_recipe(GOOD.replace("2e-3", "-2e-3"), "m.yaml")
    assert caught.value.where == "m.yaml:6"


def test_values_that_are_not_finite_are_refused_wherever_a_recipe_is_made() -> None:
    recipe = load_recipe(GOOD)
    plain = recipe.model_dump()
    plain["stages"]["0.llm"]["trainable"]["llm"] = float("inf")
    with pytest.raises(ValueError, match="finite"):
        Recipe.model_validate(plain)
