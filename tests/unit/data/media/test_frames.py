"""Tiled frames, slow-fast pooling and shared positions from the records to the reply: counted alike
everywhere."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.helpers.data_world import image_file, turns, video_file, write_registry
from tests.helpers.evaluation_world import small_model, small_recipe
from vita_train.data.index.corpus import Corpus
from vita_train.data.index.sample import Sample
from vita_train.data.loading.collate import collate_rows
from vita_train.data.prepare.run import prepare
from vita_train.evaluation.generation import prompt_of
from vita_train.inference.chat import Chat
from vita_train.inference.generate import _Session
from vita_train.models.inputs import left_padded
from vita_train.models.omni import Omni
from vita_train.recipe.model import ModelSpec
from vita_train.recipe.schema import Recipe
from vita_train.recipe.special_ids import IMAGE_ID
from vita_train.training.objectives.base import StageContext
from vita_train.training.objectives.next_token import NextTokenObjective


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    model: dict[str, Any] = small_recipe().model.model_dump(mode="json")
    model["vision"]["image_size"] = 64  # a grid of 4 x 4 tokens: slow tiles keep 9, fast ones 4
    model["llm"]["max_positions"] = 512
    data = {
        "image": {"max_tiles": 6},
        "video": {"tile_frames": True, "slowfast": True},
        "shared_position_stride": 3,
    }
    stage = {
        "objective": "next_token",
        "data": {"look": 1.0},
        "steps": 1,
        "trainable": dict.fromkeys(("llm", "projector", "vision"), 1e-3),
    }
    return small_recipe(model=ModelSpec.model_validate(model), data=data, stages={"1.3": stage})


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("frames")
    video_file(
        at / "films" / "f.mp4", frames=9, fps=3
    )  # four frames of 64 x 48, two of them cut 3 x 2
    image_file(at / "pics" / "square.jpg", 64, 64)  # one tile
    image_file(at / "pics" / "wide.jpg", 128, 64)  # two and the whole
    rows = [
        {
            "id": "film",
            "set": "films",
            "video": "f.mp4",
            "conversations": turns(
                "<video>\nwhat happens?", "it is grey.", "and then?", "it is lighter."
            ),
        },
        {
            "id": "pair",
            "set": ["pics", "pics", "pics"],
            "image": ["wide.jpg", "square.jpg", "wide.jpg"],
            "conversations": turns(
                "<image>\nis it wider than <image> and <image>?", "than one of them."
            ),
        },
        {"id": "text", "conversations": turns("say red.", "red.")},
        {
            "id": "one",
            "set": "pics",
            "image": "wide.jpg",
            "conversations": turns("<image>\nwhat?", "noise."),
        },
    ]
    return write_registry(at, {"look": {"train": rows}})


@pytest.fixture(scope="module")
def corpus(recipe: Recipe, registry: Path) -> Corpus:
    out = registry.parent / "corpus"
    prepare(recipe, registry, out, progress=lambda line: None)
    return Corpus.open(out)


@pytest.fixture
def samples(corpus: Corpus) -> list[Sample]:
    index = corpus.index("look", "train")
    return [index.sample(place) for place in range(len(index))]


@pytest.fixture
def modules(recipe: Recipe, corpus: Corpus) -> nn.ModuleDict:
    return small_model(recipe, corpus)


def stretches(ids: torch.Tensor) -> list[int]:
    return [len(list(same)) for token, same in groupby(ids.tolist()) if token == IMAGE_ID]


def test_each_picture_of_a_turn_and_each_video_takes_its_own_number_of_positions(
    samples: list[Sample], modules: nn.ModuleDict
) -> None:
    video, pictures, text, one = samples
    assert (video.tiles, pictures.tiles, text.tiles, one.tiles) == (16, 7, 0, 3)
    assert video.tile_tokens() == [9, 4, 4, 4] * 4
    assert pictures.image_tiles == [3, 1, 3]
    batch = collate_rows([[video, text], [pictures]], pad_id=0, seq_len=512)
    assert stretches(batch.input_ids[0]) == [84] == video.runs.tolist()
    assert stretches(batch.input_ids[1]) == [48, 16, 48] == pictures.runs.tolist()
    assert batch.tiles is not None
    features = Omni(modules).image_features(batch.tiles, batch.tile_tokens)
    assert len(features) == 84 + 112
    embeds = Omni(modules).embed(batch)
    assert torch.equal(embeds[1][batch.input_ids[1] == IMAGE_ID], features[84:])


def test_sets_that_are_never_tiled(recipe: Recipe, registry: Path, tmp_path: Path) -> None:
    image = recipe.data.image.model_copy(update={"no_tile_sets": ("pics", "films")})
    changed = recipe.model_copy(update={"data": recipe.data.model_copy(update={"image": image})})
    prepare(changed, registry, tmp_path / "corpus", progress=lambda line: None)
    index = Corpus.open(tmp_path / "corpus").index("look", "train")
    assert index.tiles.tolist() == [4, 3, 0, 1]
    assert [len(index.sample(place).load_pixels()) for place in (0, 1, 3)] == [4, 3, 1]
    assert index.sample(1).runs.tolist() == [16, 16, 16]


def test_positions_are_shared_and_restart_at_each_document(samples: list[Sample]) -> None:
    video, pictures, text, _ = samples
    batch = collate_rows([[text, video, pictures]], pad_id=0, seq_len=512)
    start = 0
    for sample in (text, video, pictures):
        places = batch.position_ids[0, start : start + sample.tokens]
        assert places[0] == 0
        shared = sum(int(run) - -(-int(run) // 3) for run in sample.runs)
        assert places[-1] == sample.tokens - 1 - shared
        assert set(places.diff().tolist()) <= {0, 1}
        start += sample.tokens
    assert (
        video.tokens - 1 - collate_rows([[video]], pad_id=0, seq_len=512).position_ids.max()
        == 84 - 28
    )


def test_which_frames_are_tiled_changes_pixels_and_nothing_else(
    samples: list[Sample], corpus: Corpus
) -> None:
    video, other = samples[0], corpus.index("look", "train").sample(0)
    other.seed = 2
    first, second = (collate_rows([[sample]], pad_id=0, seq_len=512) for sample in (video, other))
    assert first.tiles is not None
    assert second.tiles is not None
    assert first.tiles.shape == second.tiles.shape
    assert not torch.equal(first.tiles, second.tiles)
    for name in ("input_ids", "labels", "position_ids", "tile_tokens"):
        assert torch.equal(getattr(first, name), getattr(second, name))


def test_generation_reads_what_training_reads(
    samples: list[Sample], modules: nn.ModuleDict
) -> None:
    omni = Omni(modules).eval()
    for sample in samples[:2]:
        batch = collate_rows([[samples[2], sample]], pad_id=0, seq_len=512)
        here = slice(samples[2].tokens, samples[2].tokens + sample.tokens)
        with torch.no_grad():
            trained = omni(batch)[0, here] @ omni.head_weight.T
        prompt, ids = prompt_of(sample), batch.input_ids[0, here]
        length = len(prompt.input_ids)
        assert torch.equal(prompt.input_ids, ids[:length])
        longer = left_padded(
            [replace(prompt, input_ids=ids)], ids.device
        )  # with the reply, as when it is given
        assert torch.equal(longer.position_ids[0], batch.position_ids[0, here])
        session = _Session(
            omni, [prompt, prompt_of(samples[2])]
        )  # padded on the left beside another
        for place in range(length, len(ids)):
            torch.testing.assert_close(session.logits[0], trained[place - 1], atol=1e-5, rtol=1e-5)
            session.logits = session.extend(ids[place].repeat(2))
        assert len(ids) - length > 2


def test_chat_puts_a_video_as_training_does(
    recipe: Recipe, corpus: Corpus, samples: list[Sample], modules: nn.ModuleDict
) -> None:
    chat, video = Chat(recipe, modules, corpus.tokenizer), samples[0]
    asked = chat.with_turn("what happens?", [], [], video.videos[0])
    asked.turns += video.turns[1:3]
    prompt, trained = chat.prompt(asked), prompt_of(video)
    for name in ("input_ids", "position_ids", "tiles", "tile_tokens"):
        assert torch.equal(getattr(prompt, name), getattr(trained, name)), name


def test_a_step_trains_tower_projector_and_language_model(
    recipe: Recipe, corpus: Corpus, samples: list[Sample], modules: nn.ModuleDict
) -> None:
    context = StageContext(
        recipe=recipe,
        stage="1.3",
        spec=recipe.stages["1.3"],
        corpus=corpus,
        device=torch.device("cpu"),
        dtype=torch.float32,
        rank=0,
        world=1,
        seed=0,
    )
    used = nn.ModuleDict({name: modules[name] for name in ("llm", "vision", "projector")})
    objective = NextTokenObjective(context, used)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-3)
    batch = objective.collate([[samples[0], samples[2]], [samples[1]]], seed=0)
    losses = []
    for _ in range(3):
        loss = objective(batch)
        losses.append(loss.loss_sum.item() / loss.count)
        optimizer.zero_grad()
        (loss.loss_sum / loss.count).backward()
        assert all(
            any(
                p.grad is not None and p.grad.any()
                for p in objective.get_submodule(name).parameters()
            )
            for name in ("llm", "projector", "vision")
        )
        optimizer.step()
    assert losses[2] < losses[0]
