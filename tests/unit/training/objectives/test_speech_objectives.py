"""Objectives of stages 3.1 and 3.2 on a small prepared corpus."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers.errors import raises_code
from tests.helpers.evaluation_world import small_corpus, small_model, small_recipe
from vita_train.data.index.corpus import Corpus
from vita_train.errors import RecipeError
from vita_train.models.codec import Codec, build_discriminators
from vita_train.recipe.schema import Recipe
from vita_train.training.batches import BatchLoader
from vita_train.training.freeze import apply_trainable
from vita_train.training.objectives.base import StageContext
from vita_train.training.objectives.code_cache import CodeCache
from vita_train.training.objectives.codec import CodecObjective, crop, parse_mel_weights
from vita_train.training.objectives.speech_tokens import SpeechTokensObjective


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return small_recipe()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, recipe: Recipe) -> Corpus:
    return small_corpus(tmp_path_factory.mktemp("corpus") / "world", recipe)


@pytest.fixture
def modules(recipe: Recipe, corpus: Corpus) -> nn.ModuleDict:
    return small_model(recipe, corpus)


def context(recipe: Recipe, corpus: Corpus, stage: str, **changes: Any) -> StageContext:
    spec = recipe.stages[stage].model_copy(update=changes)
    return StageContext(
        recipe=recipe,
        stage=stage,
        spec=spec,
        corpus=corpus,
        device=torch.device("cpu"),
        dtype=torch.float32,
        rank=0,
        world=1,
        seed=0,
    )


def first_batch(objective: CodecObjective | SpeechTokensObjective, seed: int = 0) -> Any:
    order = objective.order()
    return objective.collate([order.load(row) for row in order.rows(0)], seed=seed)


def test_codec_crops_depend_on_seed_and_sample_alone(
    recipe: Recipe, corpus: Corpus, modules: nn.ModuleDict
) -> None:
    objective = CodecObjective(context(recipe, corpus, "3.1"), modules)
    order = objective.order()
    samples = [order.load(row) for row in order.rows(0)]
    together, reverse = objective.collate(samples, seed=5), objective.collate(samples[::-1], seed=5)
    assert torch.equal(together.wave, reverse.wave.flip(0))
    assert not torch.equal(together.wave, objective.collate(samples, seed=6).wave)
    assert not torch.equal(together.wave, together.other)
    assert together.wave.shape == (len(samples), recipe.model.codec.segment)


def test_codec_loss_is_a_sum_over_crops(
    recipe: Recipe, corpus: Corpus, modules: nn.ModuleDict
) -> None:
    """Two halves of a batch add up to the whole: accumulation and ranks change nothing."""
    objective = CodecObjective(context(recipe, corpus, "3.1"), modules).eval()
    order = objective.order()
    samples = [order.load(row) for row in order.rows(0)]
    whole = objective(objective.collate(samples, seed=0))
    halves = [objective(objective.collate(part, seed=0)) for part in (samples[:8], samples[8:])]
    torch.testing.assert_close(whole.loss_sum, halves[0].loss_sum + halves[1].loss_sum)
    assert whole.count == len(samples) == objective.weight(first_batch(objective))
    assert set(whole.metrics) == {"mel", "quantizer", "consistency"}


def test_codec_learns(recipe: Recipe, corpus: Corpus, modules: nn.ModuleDict) -> None:
    objective = CodecObjective(context(recipe, corpus, "3.1"), modules).train()
    objective.before_training(objective.order())
    optimizer = torch.optim.AdamW(objective.codec.parameters(), lr=2e-3)
    history = []
    for step in range(12):
        output = objective(first_batch(objective))
        history.append(output.loss_sum.item() / output.count)
        optimizer.zero_grad()
        (output.loss_sum / output.count).backward()
        optimizer.step()
        objective.after_step(step)
    assert history[-1] < 0.9 * history[0]
    assert objective.codec.quantizer.updates == 12


def test_discriminators_play_where_they_train(
    recipe: Recipe, corpus: Corpus, modules: nn.ModuleDict
) -> None:
    modules["discriminators"] = build_discriminators(recipe.model.codec)
    playing = {"codec": 1e-3, "discriminators": 1e-3}
    objective = CodecObjective(context(recipe, corpus, "3.1", trainable=playing), modules).train()
    assert objective.phases == ("discriminators", "main")
    batch = first_batch(objective)
    batch.wave, batch.other = batch.wave[:2], batch.other[:2]

    objective(batch, "discriminators").loss_sum.backward()
    assert all(parameter.grad is None for parameter in objective.codec.parameters())
    assert all(
        parameter.grad is not None for parameter in objective.train_parameters("discriminators")
    )

    objective.discriminators.requires_grad_(False)
    output = objective(batch, "main")
    output.loss_sum.backward()
    assert {"adversarial", "features"} <= set(output.metrics)
    assert all(parameter.grad is not None for parameter in objective.train_parameters("main"))


def test_adversarial_without_discriminators_is_refused(
    recipe: Recipe, corpus: Corpus, modules: nn.ModuleDict
) -> None:
    assert CodecObjective(context(recipe, corpus, "3.1"), modules).phases == ("main",)
    with raises_code(RecipeError, "VT-RECIPE-071"):
        CodecObjective(context(recipe, corpus, "3.1", options={"adversarial": 1.0}), modules)


def test_mel_weights_are_read_or_refused() -> None:
    assert parse_mel_weights("1024=45 256=0.5", where="here") == {1024: 45.0, 256: 0.5}
    for wrong, code in (("1024:45", 72), ("", 73), ("8=1", 73), ("a=b", 72)):
        with raises_code(RecipeError, f"VT-RECIPE-{code:03d}", "here"):
            parse_mel_weights(wrong, where="here")


def test_short_waves_are_padded_and_long_ones_cut() -> None:
    generator = np.random.default_rng(0)
    wave = np.arange(10, dtype=np.float32)
    assert crop(wave, 12, generator).tolist() == [*range(10), 0, 0]
    cut = crop(wave, 4, generator)
    assert cut.tolist() == list(range(int(cut[0]), int(cut[0]) + 4))


def test_speech_tokens_counts_codes_before_they_are_made(
    recipe: Recipe, corpus: Corpus, modules: nn.ModuleDict
) -> None:
    objective = SpeechTokensObjective(context(recipe, corpus, "3.2"), modules)
    batch = first_batch(objective)
    output = objective(batch)
    assert output.count == objective.weight(batch) == output.metrics["accuracy"][1]


def test_each_utterance_is_encoded_once(
    recipe: Recipe, corpus: Corpus, modules: nn.ModuleDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = SpeechTokensObjective(context(recipe, corpus, "3.2"), modules).eval()
    encoded = 0
    encode = Codec.encode

    def counted(self: Codec, wave: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal encoded
        encoded += len(wave)
        return encode(self, wave)

    monkeypatch.setattr(Codec, "encode", counted)
    first = objective(first_batch(objective))
    again = first_batch(objective)
    assert all(wave is None for wave in again.waves)
    second = objective(again)
    assert encoded == len(again.sample_ids)
    assert second.count == first.count
    torch.testing.assert_close(second.loss_sum, first.loss_sum)


def test_loader_workers_find_the_codes_that_training_made(
    recipe: Recipe, corpus: Corpus, modules: nn.ModuleDict
) -> None:
    objective = SpeechTokensObjective(context(recipe, corpus, "3.2"), modules).eval()

    def first(workers: int) -> Any:
        loader = BatchLoader(objective.collate, objective.order(), workers=workers)
        (batch,) = next(loader.steps(0, 1)).parts
        return batch

    with torch.no_grad():
        made = objective(first(workers=2))
        known = first(workers=2)
        assert all(wave is None for wave in known.waves)
        assert torch.equal(objective(known).loss_sum, made.loss_sum)


def test_a_full_cache_forgets_nothing_and_takes_no_more() -> None:
    cache = CodeCache(most_bytes=20)
    cache.add("a", torch.tensor([3, 1, 2]))
    cache.add("b", torch.tensor([3, 1, 2]))
    assert cache.get("b") is None
    found = cache.get("a")
    assert found is not None
    assert found.tolist() == [3, 1, 2]


def test_codes_that_a_killed_process_left_are_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    kept = CodeCache()
    kept.add("a", torch.tensor([1]))
    if (child := os.fork()) == 0:
        left = CodeCache()
        left.add("b", torch.tensor([2]))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert len(list(tmp_path.iterdir())) == 2
    new = CodeCache()
    assert len(list(tmp_path.iterdir())) == 2, "its own, and that of one that lives"
    assert kept.get("a") is not None
    assert new.get("b") is None


@pytest.fixture
def prefixed(recipe: Recipe, corpus: Corpus) -> tuple[Recipe, nn.ModuleDict]:
    """The recipe and model whose decoder has a prefix."""
    decoder = recipe.model.speech_decoder.model_copy(update={"prefix": True})
    model = recipe.model.model_copy(update={"speech_decoder": decoder})
    made = recipe.model_copy(update={"model": model})
    return made, small_model(made, corpus)


@pytest.mark.parametrize("prefix", ["joint", "alone", "off"])
def test_a_stage_says_how_the_prefix_trains(
    prefixed: tuple[Recipe, nn.ModuleDict], corpus: Corpus, prefix: str
) -> None:
    recipe, modules = prefixed
    stage = context(recipe, corpus, "3.2", options={"prefix": prefix})
    objective = SpeechTokensObjective(stage, modules)
    names = {
        name.removeprefix("speech_decoder.")
        for name in apply_trainable(objective, {"speech_decoder": 1e-3})
    }
    objective.before_training(objective.order())
    parts = {name.split(".")[0] for name in names}
    plain = {"embedding", "ar_layers", "norm", "head"}
    text = {"nar_layers", "text_norm", "duration"} & {name for name, _ in decoder_children(modules)}
    assert (
        parts
        == {
            "joint": {*plain, *text, "prefix"},
            "alone": {*text, "prefix"},
            "off": {*plain, *text},
        }[prefix]
    )
    assert objective.speech_decoder.has_prefix is (prefix != "off")
    output = objective(first_batch(objective))
    output.loss_sum.backward()
    without = [
        name
        for name, parameter in objective.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]
    assert without == [], "data-parallel training waits for these for ever"
    with torch.no_grad():
        objective.llm.model.norm.weight.mul_(-1)  # what only the hidden states show
        moved = objective(first_batch(objective)).loss_sum
    assert torch.equal(moved, output.loss_sum) is (prefix == "off")


def test_an_unknown_way_to_train_the_prefix_is_refused(
    recipe: Recipe, corpus: Corpus, modules: nn.ModuleDict
) -> None:
    with raises_code(RecipeError, "VT-RECIPE-097", "options.prefix"):
        SpeechTokensObjective(context(recipe, corpus, "3.2", options={"prefix": "both"}), modules)


def decoder_children(modules: nn.ModuleDict) -> list[tuple[str, nn.Module]]:
    return list(modules["speech_decoder"].named_children())


def test_speech_decoder_alone_trains_and_learns(
    recipe: Recipe, corpus: Corpus, modules: nn.ModuleDict
) -> None:
    objective = SpeechTokensObjective(context(recipe, corpus, "3.2"), modules).train()
    objective.requires_grad_(False).speech_decoder.requires_grad_(True)
    objective.before_training(objective.order())
    assert objective.speech_decoder.voice.max() < recipe.model.codec.codebook_size
    optimizer = torch.optim.AdamW(objective.speech_decoder.parameters(), lr=3e-3)
    history = []
    for _ in range(15):
        output = objective(first_batch(objective))
        history.append(output.loss_sum.item() / output.count)
        optimizer.zero_grad()
        (output.loss_sum / output.count).backward()
        optimizer.step()
    assert history[-1] < 0.8 * history[0]
    assert all(
        parameter.grad is None
        for parameter in (*objective.llm.parameters(), *objective.codec.parameters())
    )
