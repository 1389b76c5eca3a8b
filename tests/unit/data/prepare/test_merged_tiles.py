"""Merged tokens from preparation through packing to the model."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.data_world import recipe, small_world
from tests.helpers.errors import raises_code
from vita_train.data.index.corpus import Corpus
from vita_train.data.loading.batch import Batch
from vita_train.data.loading.collate import collate_rows
from vita_train.data.prepare.run import prepare
from vita_train.data.sampling.build import packed_order
from vita_train.errors import DataError, RecipeError
from vita_train.models.build import build_modules
from vita_train.models.omni import Omni
from vita_train.recipe.check import check_recipe
from vita_train.recipe.data import VideoSpec
from vita_train.recipe.schema import Recipe
from vita_train.recipe.special_ids import IMAGE_ID
from vita_train.recipe.towers.clip import ClipSpec
from vita_train.recipe.visual import TileTokens, video_tokens

#: 16 patches a tile; 5 of them stay.
WHOLE, LEFT = 16, 5


def merging(*, slowfast: bool = False, **stage: Any) -> Recipe:
    made = recipe().model_dump(mode="json")
    made["model"]["vision"] = {
        "kind": "clip", "image_size": 32, "patch_size": 8, "hidden_size": 32, "num_layers": 4,
        "num_heads": 2, "intermediate_size": 32, "merge": {"keep": LEFT / WHOLE,
        "slowfast": slowfast},
    }  # fmt: skip
    made["model"]["llm"] |= {"num_layers": 1, "num_kv_heads": 2, "intermediate_size": 32}
    made["stages"]["1.3"] |= stage
    made["stages"]["1.3"]["batch"]["seq_len"] = 256
    return Recipe.model_validate(made)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_world(tmp_path_factory.mktemp("world"))


def prepared(made: Recipe, registry: Path, at: Path) -> Corpus:
    prepare(made, registry, at / "corpus", progress=lambda _: None)
    return Corpus.open(at / "corpus")


def batch_of(corpus: Corpus) -> Batch:
    index = corpus.index("look", "train")
    return collate_rows([[index.sample(row)] for row in range(len(index))], pad_id=0, seq_len=512)


@pytest.mark.parametrize("slowfast", [False, True])
def test_positions_and_features_agree_merged_and_whole(
    slowfast: bool, registry: Path, tmp_path: Path
) -> None:
    made = merging(slowfast=slowfast)
    corpus = prepared(made, registry, tmp_path)
    omni = Omni(build_modules(made.model, ("llm", "vision", "projector"))).eval()
    whole = corpus.for_stage(merging(merge_visual_tokens=False).stages["1.3"])
    assert corpus.for_stage(made.stages["1.3"]) is corpus
    for seen, each in ((corpus, LEFT), (whole, WHOLE)):
        index = seen.index("look", "train")
        batch = batch_of(seen)
        assert batch.tiles is not None
        first = (WHOLE - LEFT) if slowfast and seen is corpus else 0  # there is one video
        placed = int((batch.input_ids == IMAGE_ID).sum())
        assert placed == each * len(batch.tiles) + first
        assert index.tokens.tolist() == [
            len(index.sample(row).expanded()[0]) for row in range(len(index))
        ]
        with torch.no_grad():
            assert omni(batch).isfinite().all()  # every feature found its placeholder
    again = pickle.loads(pickle.dumps(whole.index("look", "train")))
    assert again.tokens.tolist() == whole.index("look", "train").tokens.tolist()
    order = packed_order(whole, made.stages["1.3"], seed=0)
    assert order is not None
    rows = [order.load(row) for row in order.rows(0)]
    assert all(sum(sample.tokens for sample in row) <= 256 for row in rows)


def test_tiles_come_out_in_order_whether_whole_or_merged() -> None:
    made = merging(slowfast=True)
    omni = Omni(build_modules(made.model, ("llm", "vision", "projector"))).eval()
    tiles = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        mixed = omni.image_features(tiles, torch.tensor([LEFT, WHOLE, LEFT]))
        alone = [
            omni.image_features(tiles[place][None], torch.tensor([count]))
            for place, count in enumerate((LEFT, WHOLE, LEFT))
        ]
        plain = omni.image_features(tiles[1][None])
    torch.testing.assert_close(mixed, torch.cat(alone), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(alone[1], plain)
    with raises_code(DataError, "VT-DATA-082", "7 positions"):
        omni.image_features(tiles, torch.tensor([7, WHOLE, LEFT]))


def test_both_kinds_pass_on_every_rank_where_there_may_be_both() -> None:
    made = merging(slowfast=True)
    omni = Omni(build_modules(made.model, ("llm", "vision", "projector")))
    passes: list[int] = []
    encode, merged = omni.vision.encode, omni.vision.merged
    omni.vision.encode = lambda pixels: passes.append(WHOLE) or encode(pixels)
    omni.vision.merged = lambda tiles, counts: passes.append(LEFT) or merged(tiles, counts)
    omni.image_features(torch.zeros(1, 3, 32, 32), torch.tensor([LEFT]))
    omni.image_features(torch.zeros(1, 3, 32, 32), torch.tensor([WHOLE]))
    omni._dummy_image(torch.zeros(0, dtype=torch.long), torch.device("cpu"))
    assert passes == [LEFT, WHOLE] * 3


#: Frames, positions without and with the first frame whole, at 171 of 729 tokens (keep 0.2).
PUBLISHED = [(8, 1368, 1926), (16, 2736, 3294), (32, 5472, 6030)]


@pytest.mark.parametrize(("frames", "plain", "slowfast"), PUBLISHED)
def test_a14_videos_take_the_published_numbers_of_positions(
    frames: int, plain: int, slowfast: int
) -> None:
    spec = ClipSpec(
        image_size=378, hidden_size=1280, num_layers=32,
        merge={"keep": 0.2, "schedule": "published"},
    )  # fmt: skip
    tile = TileTokens(spec.num_tokens, spec.merged_tokens)
    assert sum(video_tokens(frames, tile, VideoSpec())) == plain
    for _ in range(2):  # one video after the other
        slow = TileTokens(tile.whole, tile.merged, first_whole=True)
        assert sum(video_tokens(frames, slow, VideoSpec())) == slowfast


def test_a_record_that_fits_merged_only_is_rejected_where_a_stage_sees_it_whole(
    registry: Path, tmp_path: Path
) -> None:
    lengths = prepared(merging(), registry, tmp_path / "long").index("look", "train").tokens
    fits = int(lengths.max())
    for merge in (True, False):
        made = merging(merge_visual_tokens=merge).model_dump(mode="json")
        made["stages"]["1.3"]["batch"]["seq_len"] = fits
        made["data"]["max_reject_share"] = 1.0
        corpus = prepared(Recipe.model_validate(made), registry, tmp_path / str(merge))
        index = corpus.index("look", "train")
        assert (len(index) == len(lengths)) is merge
        seen = corpus.for_stage(Recipe.model_validate(made).stages["1.3"]).index("look", "train")
        assert int(seen.tokens.max()) <= fits


def test_a_projector_that_needs_a_square_is_refused() -> None:
    made = merging().model_dump(mode="json")
    made["model"]["projector"] = {"kind": "ldp"}
    with pytest.raises(ValueError, match=r"vision\.merge"):
        Recipe.model_validate(made)


def test_pooling_and_merging_exclude_each_other() -> None:
    made = merging().model_dump(mode="json")
    made["data"]["video"]["slowfast"] = True
    with pytest.raises(RecipeError) as caught:
        check_recipe(Recipe.model_validate(made))
    assert "model.vision.merge" in str(caught.value)
