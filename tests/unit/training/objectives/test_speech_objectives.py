"""Objectives of stages 3.1 and 3.2 on a small prepared corpus."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers.errors import raises_code
from tests.helpers.evaluation_world import small_corpus, small_model, small_recipe
from vita_train.data.index.corpus import Corpus
from vita_train.data.index.sample import Sample
from vita_train.errors import DataError, RecipeError
from vita_train.models.codec import Codec, build_discriminators
from vita_train.recipe.schema import Recipe
from vita_train.storage.local import LocalStore
from vita_train.training.batches import BatchLoader
from vita_train.training.freeze import apply_trainable
from vita_train.training.objectives import speech_codes
from vita_train.training.objectives.base import Kept, StageContext
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


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Samples of each wave that a codec encodes from now on."""
    lengths: list[int] = []
    encode = Codec.encode

    def counted(self: Codec, wave: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        lengths.append(wave.shape[1])
        return encode(self, wave)

    monkeypatch.setattr(Codec, "encode", counted)
    return lengths


def speaking(
    recipe: Recipe, corpus: Corpus, modules: nn.ModuleDict, root: Path, **changes: Any
) -> SpeechTokensObjective:
    """Stage 3.2 at its start, with a place to keep codes in."""
    changes = {"steps": 1000, **changes}
    stage = replace(
        context(recipe, corpus, "3.2", **changes), kept=Kept(LocalStore(root), "run/3.2")
    )
    objective = SpeechTokensObjective(stage, modules).eval()
    objective.before_training(objective.order())
    return objective


def test_codes_are_made_once_for_all_starts_of_a_stage(
    recipe: Recipe, corpus: Corpus, modules: nn.ModuleDict, encoded: list[int], tmp_path: Path
) -> None:
    plain = SpeechTokensObjective(context(recipe, corpus, "3.2"), modules).eval()
    expected = plain(first_batch(plain))
    encoded.clear()
    objective = speaking(recipe, corpus, modules, tmp_path)
    splits = [corpus.index("tts", split) for split in ("train", "dev")]
    voice = 1  # taken at every start
    assert len(encoded) == sum(map(len, splits)) + voice
    encoded.clear()

    batch = first_batch(objective)
    assert all(wave is None for wave in batch.waves)
    found = objective(batch)
    assert found.count == expected.count
    torch.testing.assert_close(found.loss_sum, expected.loss_sum)
    again = speaking(recipe, corpus, modules, tmp_path)
    assert torch.equal(again(first_batch(again)).loss_sum, found.loss_sum)
    assert len(encoded) == voice


def test_loader_workers_find_the_codes(
    recipe: Recipe, corpus: Corpus, modules: nn.ModuleDict, tmp_path: Path
) -> None:
    objective = speaking(recipe, corpus, modules, tmp_path)
    loader = BatchLoader(objective.collate, objective.order(), workers=2)
    (batch,) = next(loader.steps(0, 1)).parts
    for found, known in zip(batch.codes, first_batch(objective).codes, strict=True):
        assert found is not None
        assert torch.equal(found, known)


def test_a_short_stage_encodes_what_it_meets(
    recipe: Recipe, corpus: Corpus, modules: nn.ModuleDict, encoded: list[int], tmp_path: Path
) -> None:
    objective = speaking(recipe, corpus, modules, tmp_path, steps=1)
    assert len(encoded) == 1, "the voice alone"
    batch = first_batch(objective)
    assert all(codes is None for codes in batch.codes)
    encoded.clear()
    objective(batch)
    assert len(encoded) == len(batch.sample_ids)


def test_codes_of_another_codec_are_made_anew_and_the_old_ones_removed(
    recipe: Recipe, corpus: Corpus, modules: nn.ModuleDict, encoded: list[int], tmp_path: Path
) -> None:
    speaking(recipe, corpus, modules, tmp_path)
    before, made = set(tmp_path.rglob("*.arrow")), len(encoded)
    with torch.no_grad():
        next(modules["codec"].parameters()).mul_(2)
    speaking(recipe, corpus, modules, tmp_path)
    after = set(tmp_path.rglob("*.arrow"))
    assert len(encoded) == 2 * made
    assert len(after) == len(before)
    assert not before & after


def test_a_kill_costs_the_parts_that_were_being_made(
    recipe: Recipe,
    corpus: Corpus,
    modules: nn.ModuleDict,
    encoded: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(speech_codes, "PART", 4)
    whole = speaking(recipe, corpus, modules, tmp_path / "whole")
    total = len(encoded)
    encoded.clear()
    write, written = LocalStore.write, list[str]()

    def killed(self: LocalStore, key: str, data: bytes, **options: Any) -> None:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(key)
        write(self, key, data, **options)

    monkeypatch.setattr(LocalStore, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        speaking(recipe, corpus, modules, tmp_path / "cut")
    monkeypatch.setattr(LocalStore, "write", write)
    cut = tmp_path / "cut" / written[0]
    cut.write_bytes(cut.read_bytes()[:100])
    encoded.clear()
    resumed = speaking(recipe, corpus, modules, tmp_path / "cut")
    assert len(encoded) == total - 2 * 4, "two of the three parts are whole"
    batch = first_batch(whole)
    assert torch.equal(resumed(batch).loss_sum, whole(batch).loss_sum)
    for name, path in whole._codes.files.items():
        assert resumed._codes.files[name].read_bytes() == path.read_bytes()


def test_an_emptied_file_of_codes_is_made_again(
    recipe: Recipe, corpus: Corpus, modules: nn.ModuleDict, encoded: list[int], tmp_path: Path
) -> None:
    speaking(recipe, corpus, modules, tmp_path)
    for path in sorted((tmp_path / "run" / "3.2" / "codes").rglob("*.*")):
        kept = path.read_bytes()
        path.write_bytes(b"")
        encoded.clear()
        speaking(recipe, corpus, modules, tmp_path)
        assert len(encoded) > 1, path
        assert path.read_bytes() == kept


def test_an_utterance_that_cannot_be_read_is_left_to_the_step_that_meets_it(
    recipe: Recipe,
    corpus: Corpus,
    modules: nn.ModuleDict,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load = Sample.load_wave

    def fails(self: Sample, clip: int, rate: int) -> Any:
        if self.id == "tts/train/3":
            raise DataError("gone", code="VT-DATA-004", where=self.id, remedy="none")
        return load(self, clip, rate)

    monkeypatch.setattr(Sample, "load_wave", fails)
    objective = speaking(recipe, corpus, modules, tmp_path)
    index = corpus.index("tts", "train")
    assert objective._codes.get(index.sample(3)) is None
    assert objective._codes.get(index.sample(4)) is not None
    with raises_code(DataError, "VT-DATA-004", "tts/train/3"):
        objective.collate([index.sample(3)], seed=0)


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
