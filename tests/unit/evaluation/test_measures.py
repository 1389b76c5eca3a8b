"""Every measure of the ladder is taken, is repeatable, and leaves the model as it was."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from vita_train.evaluation.measures import measure
from vita_train.evaluation.speech_metrics import codebook_use
from vita_train.evaluation.tasks import all_tasks
from vita_train.models.codec import build_codec
from vita_train.recipe.modules import MODULES


@pytest.fixture(scope="module")
def everything(world: Any) -> dict[str, float]:
    return measure(world.recipe, world.corpus, world.modules, max_samples=20)


def test_every_measure_of_the_catalogue_is_taken(world: Any, everything: dict[str, float]) -> None:
    names = {name for task in all_tasks(world.recipe, world.corpus, MODULES) for name in task.names}
    assert set(everything) == names
    assert not any(math.isnan(value) for value in everything.values())


def test_measures_are_repeatable_and_leave_modes_alone(
    world: Any, everything: dict[str, float]
) -> None:
    world.modules.train()
    world.modules["vision"].eval()
    before = {name: module.training for name, module in world.modules.named_modules()}
    names = ["caption.test.loss", "asr.test.wer", "speech.test.wer", "tts.test.codes_used"]
    again = measure(world.recipe, world.corpus, world.modules, names, max_samples=20)
    assert {name: module.training for name, module in world.modules.named_modules()} == before
    world.modules.eval()
    assert again == {name: everything[name] for name in names}, "dropout or masks must not act"


def test_codes_of_several_codebooks_are_counted_apart(world: Any) -> None:
    """The same vectors in two books of the same codes: as many codes again, and as even."""
    recipe = world.recipe.model_copy(
        update={
            "model": world.recipe.model.model_copy(
                update={"codec": world.recipe.model.codec.model_copy(update={"code_groups": 2})}
            )
        }
    )
    torch.manual_seed(0)
    codec = build_codec(recipe.model.codec).eval()
    first, second = codec.quantizer.books
    first.codebook.normal_()
    second.codebook.copy_(first.codebook)
    half = codec.encoder.outlet.out_features // 2
    with torch.no_grad():
        codec.encoder.outlet.weight[half:] = codec.encoder.outlet.weight[:half]
        codec.encoder.outlet.bias[half:] = codec.encoder.outlet.bias[:half]
    names = ["tts.test.codes_used", "tts.test.perplexity"]
    both = measure(recipe, world.corpus, nn.ModuleDict({"codec": codec}), names, max_samples=4)
    ids = [codec.encode(torch.from_numpy(wave)[None])[0] for wave in waves_of(world)]
    one = codebook_use([codes[..., 0] for codes in ids], recipe.model.codec.codebook_size)
    assert both["tts.test.codes_used"] == 2 * one.used > 2
    assert both["tts.test.perplexity"] == pytest.approx(2 * one.perplexity)


def waves_of(world: Any) -> list[Any]:
    index, rate = world.corpus.index("tts", "test"), world.recipe.model.codec.sample_rate
    return [index.sample(place).load_wave(0, rate) for place in range(4)]


def test_only_what_is_asked_for_is_returned(world: Any) -> None:
    assert set(
        measure(world.recipe, world.corpus, world.modules, ["textqa.test.accuracy"], max_samples=4)
    ) == {"textqa.test.accuracy"}


def test_a_measure_that_cannot_be_taken_is_absent(world: Any) -> None:
    text = nn.ModuleDict({"llm": world.modules["llm"]})
    found = measure(
        world.recipe, world.corpus, text, ["caption.test.loss", "textqa.test.loss"], max_samples=4
    )
    assert set(found) == {"textqa.test.loss"}


def test_the_limit_takes_the_first_samples(world: Any, everything: dict[str, float]) -> None:
    few = measure(world.recipe, world.corpus, world.modules, ["textqa.test.loss"], max_samples=2)
    assert few["textqa.test.loss"] != everything["textqa.test.loss"]
