"""A batch of every mix, trained before a run is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers.data_world import recipe, small_world
from tests.helpers.errors import raises_code
from vita_train.data.index.corpus import Corpus
from vita_train.data.prepare.run import prepare
from vita_train.errors import DataError
from vita_train.models.build import build_modules
from vita_train.planning.parameters import count_parameters
from vita_train.recipe.load import load_recipe
from vita_train.recipe.schema import Recipe
from vita_train.training.dry_batch import dry_batches, small_model


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    at = tmp_path_factory.mktemp("dry")
    prepare(recipe(), small_world(at), at / "corpus", progress=[].append)
    return Corpus.open(at / "corpus")


def small(**stage: Any) -> Recipe:
    """The recipe with one stage, which trains on everything."""
    made = recipe().model_dump(mode="json")
    made["model"]["llm"] |= {"vocab_size": 1024, "max_positions": 4096}
    spec = {
        "objective": "next_token",
        "data": {"talk": 1.0, "look": 1.0, "hear": 1.0},
        "steps": 1,
        "trainable": {"llm": 1e-3, "projector": 1e-3, "audio_adapter": 1e-3},
        "batch": {"global_batch_size": 1, "seq_len": 4096, "max_tiles": 64},
    }
    made["stages"] = {"all": spec | stage}
    return Recipe.model_validate(made)


def test_every_mix_of_modalities_is_trained_on(corpus: Corpus) -> None:
    losses = dry_batches(small(), corpus)
    mixes = set()
    for name in ("talk", "look", "hear"):
        index = corpus.index(name, "train")
        mixes |= set(zip((index.tiles > 0).tolist(), (index.frames > 0).tolist(), strict=True))
    names = {
        (False, False): "text",
        (True, False): "images",
        (False, True): "audio",
        (True, True): "images and audio",
    }
    assert set(losses["all"]) == {names[mix] for mix in mixes}
    assert all(loss > 0 for loss in losses["all"].values())


def test_what_gets_no_gradient_is_named(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    from vita_train.models.audio.adapter import SubsamplingAdapter

    forward = SubsamplingAdapter.forward

    def cut(self: Any, *values: Any, **more: Any) -> Any:
        result = forward(self, *values, **more)
        return tuple(part.detach() if isinstance(part, Tensor) else part for part in result)

    monkeypatch.setattr(SubsamplingAdapter, "forward", cut)
    with raises_code(DataError, "VT-DATA-079", "audio_adapter", "stages.all.trainable"):
        dry_batches(small(), corpus)


def test_media_that_give_no_number_are_named(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "vita_train.data.index.sample.Sample.load_fbank",
        lambda self, clip=0: torch.full((self.audio_frames[clip], 80), float("nan")),
    )
    with raises_code(DataError, "VT-DATA-081", "hear/train/", "stage all, audio"):
        dry_batches(small(), corpus)


def test_the_small_model_keeps_what_batches_are_made_for(tmp_path: Path) -> None:
    spec = load_recipe("vita-1.5-7b", ["model.llm.attention=flash"]).model
    made = small_model(spec)
    assert made.tokens_per_tile == spec.tokens_per_tile
    assert made.llm.vocab_size == spec.llm.vocab_size
    ratio = spec.llm.hidden_size // spec.speech_decoder.width
    assert made.llm.hidden_size // made.speech_decoder.width == ratio
    assert made.sources == {}
    assert made.llm.attention == "auto", "a kernel of GPUs does not run here"
    assert sum(count_parameters(made).values()) < sum(count_parameters(spec).values()) / 20
    with torch.device("meta"):
        build_modules(made, ["llm", "vision", "projector", "speech_decoder"])
