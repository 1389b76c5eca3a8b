"""Captions of folders, with as many frames and visual tokens as are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.data_world import video_file
from tests.helpers.evaluation_world import small_corpus, small_model, small_recipe
from vita_train.data.prepare.tokenizer import load_tokenizer
from vita_train.errors import UserError
from vita_train.inference.captions import caption_files, keep_tokens, media_files, with_frames
from vita_train.inference.chat import Chat
from vita_train.recipe.model import ModelSpec


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Chat, Path]:
    """A model with a tower that can merge and was not trained to: 16 tokens a tile."""
    root = tmp_path_factory.mktemp("captions")
    recipe = small_recipe()
    model = recipe.model.model_dump()
    kept = ("image_size", "patch_size", "hidden_size", "num_heads", "intermediate_size")
    model["vision"] = {name: model["vision"][name] for name in kept}
    model["vision"] |= {"kind": "clip", "num_layers": 4}
    recipe = recipe.model_copy(update={"model": ModelSpec.model_validate(model)})
    corpus = small_corpus(root, recipe)
    (root / "pictures" / "broken.png").write_bytes(b"no picture")
    video_file(root / "pictures" / "clip.mp4")
    chat = Chat(recipe, small_model(recipe, corpus), load_tokenizer(corpus.path / "tokenizer"))
    return chat, root / "pictures"


def test_a24_every_file_has_a_caption_or_a_reason(place: tuple[Chat, Path]) -> None:
    chat, folder = place
    files = media_files(folder)
    said = list(caption_files(chat, files, folder, "describe it.", max_new_tokens=3))
    assert [one.id for one in said] == [path.name for path in files]
    assert [one.id for one in said if one.error] == ["broken.png"]
    assert all(not one.caption for one in said if one.error)
    tokens = {one.id: one.visual_tokens for one in said}
    assert tokens["0.png"] == 16
    (alone,) = caption_files(chat, [folder / "0.png"], folder / "0.png", "describe it.")
    assert alone.id == "0.png"


def test_a24_kept_tokens_and_frames_are_those_asked_for(place: tuple[Chat, Path]) -> None:
    chat, folder = place
    trained = chat.recipe
    files = [folder / "0.png", folder / "clip.mp4"]
    try:
        chat.recipe = with_frames(keep_tokens(trained, chat.modules, 0.5), 3)
        said = list(caption_files(chat, files, folder, "describe it.", max_new_tokens=3))
        assert [one.visual_tokens for one in said] == [8, 3 * 8]
        chat.recipe = keep_tokens(chat.recipe, chat.modules, 1.0)
        (whole,) = caption_files(chat, files[:1], folder, "describe it.", max_new_tokens=3)
        assert whole.visual_tokens == 16
        with pytest.raises(UserError):
            keep_tokens(chat.recipe, chat.modules, 0.01)
    finally:
        chat.recipe = trained


def test_towers_that_cannot_merge_and_empty_folders_are_refused(
    place: tuple[Chat, Path], tmp_path: Path
) -> None:
    chat, _ = place
    with pytest.raises(UserError):
        keep_tokens(small_recipe(), chat.modules, 0.5)
    with pytest.raises(UserError):
        media_files(tmp_path)
