"""Orders: every record as often as its weight says, rows within budgets, the same batches wherever
one starts."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.errors import raises_code
from vita_train.data.index.corpus import Corpus, Index
from vita_train.data.index.sample import MediaSettings
from vita_train.data.prepare.index_writer import IndexWriter, rows_batch
from vita_train.data.prepare.row_encoder import Example
from vita_train.data.sampling.build import packed_order, sample_order
from vita_train.data.sampling.curriculum import CurriculumOrder
from vita_train.data.sampling.deal import Costs, deal
from vita_train.data.sampling.mix import Mix, permute
from vita_train.data.sampling.order import PackedOrder, SampleOrder
from vita_train.data.sampling.pack import Budgets, fill, pack
from vita_train.errors import DataError, RecipeError
from vita_train.recipe.audio import SubsamplingAdapterSpec
from vita_train.recipe.data import DataSpec
from vita_train.recipe.stage import BatchSpec, StageSpec
from vita_train.recipe.towers.internvit import InternVitSpec

BUDGETS = Budgets(256, 8, 2000)


def mixed_lengths(number: int, seed: int = 0) -> np.ndarray:
    """Lengths like those of the synthetic world: text, images of 16 positions, speech of 8 frames a
    position."""
    generator = np.random.default_rng(seed)
    tokens = generator.integers(25, 75, number)
    kind = generator.integers(0, 3, number)
    tiles = np.where(kind == 1, generator.integers(1, 3, number), 0)
    frames = np.where(kind == 2, generator.integers(50, 350, number), 0)
    return np.stack([tokens + tiles * 16 + frames // 8, tiles, frames], axis=1)


def index_of(path: Path, name: str, lengths: np.ndarray) -> Index:
    meta: dict[str, object] = {
        "dataset": name,
        "split": "train",
        "roots": {},
        "settings": MediaSettings(
            data=DataSpec(), vision=InternVitSpec(), adapter=SubsamplingAdapterSpec(), mel_bins=80
        ).model_dump(mode="json"),
    }
    examples = [
        Example(
            row=place,
            id=f"{name}-{place}",
            ids=[1],
            spans=[0, 1],
            runs=[],
            tokens=tokens,
            tiles=tiles,
            frames=frames,
            supervised=1,
            images=[],
            image_tiles=[],
            videos=[],
            video_frame_indices=[],
            audios=[],
            audio_frames=[],
            media_digests=[],
            seconds=0.0,
            turns=["a", "b"],
            inserted=-1,
        )
        for place, (tokens, tiles, frames) in enumerate(lengths.tolist())
    ]
    with IndexWriter(path / name, meta) as writer:
        writer.add(pa.Table.from_batches([rows_batch(examples, [0] * len(examples))]))
    return Index(path / name)


@pytest.fixture(scope="module")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Index]:
    path = tmp_path_factory.mktemp("indexes")
    sizes = {"big": 700, "mid": 250, "small": 60}
    return {
        name: index_of(path, name, mixed_lengths(size, seed))
        for seed, (name, size) in enumerate(sizes.items())
    }


WEIGHTS = {"big": 1.0, "mid": 0.2, "small": 2.0}


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 5000), key=st.integers(0, 2**64 - 1))
def test_permutations_hit_every_value_once(size: int, key: int) -> None:
    assert np.array_equal(np.sort(permute(np.arange(size), size, key)), np.arange(size))


def test_permutations_look_random() -> None:
    size = 20000
    values = permute(np.arange(size), size, 7)
    assert abs(np.corrcoef(values, np.arange(size))[0, 1]) < 0.03
    assert abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 0.03
    assert not np.array_equal(values, permute(np.arange(size), size, 8))


def test_large_permutations_need_no_list() -> None:
    size = 10**12
    values = permute(np.arange(size - 1000, size), size, 3)
    assert len(set(values.tolist())) == 1000
    assert (values < size).all()


def test_weights_are_kept_exactly_over_epochs() -> None:
    mix = Mix({"big": 700, "mid": 250, "small": 60}, WEIGHTS, seed=1)
    assert mix.epoch_size(0) == 700 + 50 + 120
    visits: Counter[tuple[int, int]] = Counter()
    for epoch in range(5):
        refs = mix.window(epoch, 0, mix.epoch_size(epoch))
        seen = Counter(zip(refs.dataset.tolist(), refs.index.tolist(), strict=True))
        assert all(seen[(0, place)] == 1 for place in range(700))
        assert all(seen[(2, place)] == 2 for place in range(60))
        visits += seen
    assert all(visits[(1, place)] == 1 for place in range(250))


def test_fractions_of_small_datasets_lose_nothing() -> None:
    mix = Mix({"a": 3}, {"a": 0.3}, seed=0)
    taken = Counter(
        index
        for epoch in range(10)
        for index in mix.window(epoch, 0, mix.epoch_size(epoch)).index.tolist()
    )
    assert taken == {0: 3, 1: 3, 2: 3}


def test_windows_cut_one_order() -> None:
    mix = Mix({"a": 1000, "b": 37}, {"a": 1.0, "b": 3.0}, seed=4)
    whole = mix.window(2, 0, mix.epoch_size(2))
    part = mix.window(2, 400, 460)
    assert np.array_equal(part.index, whole.index[400:460])
    assert np.array_equal(part.dataset, whole.dataset[400:460])


@pytest.mark.parametrize(
    "weights", [{"a": 0.0}, {"a": -1.0}, {"a": float("nan")}, {"a": 1.0, "b": 1.0}]
)
def test_useless_mixes_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(RecipeError):
        Mix({"a": 5, "b": 0}, weights, 0)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 256), st.integers(0, 8), st.integers(0, 2000)), max_size=120),
    st.integers(0, 9),
)
def test_rows_keep_budgets_and_hold_every_sample_once(
    lengths: list[tuple[int, int, int]], seed: int
) -> None:
    table = np.array(lengths, dtype=np.int64).reshape(-1, 3)
    rows = pack(table, BUDGETS, seed)
    assert sorted(place for row in rows for place in row.tolist()) == list(range(len(table)))
    for row in rows:
        assert (table[row].sum(axis=0) <= np.array(BUDGETS)).all()


def test_the_mix_fills_rows() -> None:
    for number in (2000, 20000):
        lengths = mixed_lengths(number)
        rows = pack(lengths, Budgets(256, 24, 20000), 0)
        assert fill(rows, lengths, Budgets(256, 24, 20000)) >= 0.97


def test_samples_larger_than_a_row_are_named(tmp_path: Path) -> None:
    index = index_of(tmp_path, "one", np.array([[10, 0, 0], [300, 0, 0]]))
    with raises_code(DataError, "VT-DATA-019", "one/train/1", "[300", "0]"):
        PackedOrder({"one": index}, {"one": 1.0}, 2, BUDGETS, 0).rows(0)


def packed(indexes: dict[str, Index], seed: int = 0, rows: int = 8) -> PackedOrder:
    return PackedOrder(indexes, WEIGHTS, rows, BUDGETS, seed, window=200)


def test_batches_do_not_depend_on_where_one_starts(indexes: dict[str, Index]) -> None:
    forward = packed(indexes)
    walked = [forward.rows(step) for step in range(120)]
    assert walked[60] == packed(indexes).rows(60)
    backward = packed(indexes)
    assert [backward.rows(step) for step in reversed(range(120))] == walked[::-1]
    assert packed(indexes, seed=1).rows(0) != walked[0]


def test_state_carries_the_place_without_packing_what_came_before(
    indexes: dict[str, Index], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, state = packed(indexes).rows(200), packed(indexes).state(200)
    planned = []
    resumed = packed(indexes)
    original = resumed._pack
    monkeypatch.setattr(
        resumed, "_pack", lambda epoch, window: planned.append(window) or original(epoch, window)
    )
    resumed.seek(state)
    assert resumed.rows(200) == expected
    assert len(planned) <= 2
    stranger = packed(indexes, seed=5)
    stranger.seek(state)
    assert stranger.rows(3) == packed(indexes, seed=5).rows(3)


def curriculum_first(indexes: dict[str, Index]) -> CurriculumOrder:
    phases = [
        (3, PackedOrder(indexes, {"small": 1.0}, 8, BUDGETS, 1, window=200)),
        (40, PackedOrder(indexes, {"mid": 1.0}, 8, BUDGETS, 2, window=200)),
    ]
    return CurriculumOrder(phases, packed(indexes))


def test_the_curriculum_comes_first_and_then_the_order_begins_at_its_start(
    indexes: dict[str, Index],
) -> None:
    order = curriculum_first(indexes)
    of_step = [{ref.dataset for row in order.rows(step) for ref in row} for step in range(43)]
    assert of_step == [{"small"}] * 3 + [{"mid"}] * 40
    assert [order.rows(43 + step) for step in range(5)] == [
        packed(indexes).rows(step) for step in range(5)
    ]
    assert order.ids(50) == packed(indexes).ids(7)
    names = [sample.id for sample in order.load(order.rows(20)[0])]
    assert names == [f"mid/train/{ref.row}" for ref in order.rows(20)[0]]


@pytest.mark.parametrize("step", [2, 40, 200])
def test_the_curriculum_resumes_where_it_was(indexes: dict[str, Index], step: int) -> None:
    resumed = curriculum_first(indexes)
    resumed.seek(curriculum_first(indexes).state(step))
    assert [resumed.rows(step + more) for more in range(4)] == [
        curriculum_first(indexes).rows(step + more) for more in range(4)
    ]
    assert pickle.loads(pickle.dumps(resumed)).ids(step) == resumed.ids(step)
    assert resumed.digest not in (
        packed(indexes).digest,
        CurriculumOrder([], packed(indexes)).digest,
    )


def test_every_batch_is_full_and_epochs_follow_without_loss(indexes: dict[str, Index]) -> None:
    order = packed(indexes)
    steps = 4 * order.steps_per_epoch
    batches = [order.rows(step) for step in range(steps)]
    assert all(len(batch) == 8 for batch in batches)
    seen = Counter((ref.dataset, ref.row) for batch in batches for row in batch for ref in row)
    once = [seen[("big", place)] for place in range(700)]
    assert min(once) >= 3
    assert max(once) <= 5
    epoch = batches[: order.steps_per_epoch]
    first = Counter((ref.dataset, ref.row) for batch in epoch for row in batch for ref in row)
    assert all(first[("big", place)] >= 1 for place in range(700))
    assert order.ids(3) == [f"{ref.dataset}/train/{ref.row}" for row in batches[3] for ref in row]


@pytest.mark.parametrize("ranks", [1, 3, 8])
def test_v19_ranks_share_every_row_of_an_epoch_and_none_starves(
    indexes: dict[str, Index], ranks: int
) -> None:
    order = PackedOrder(indexes, {"mid": 1.0, "small": 1.0}, 24, BUDGETS, seed=3, packing=False)
    seen: Counter[tuple[str, int]] = Counter()
    total, steps = 250 + 60, -(-(250 + 60) // 24)
    for step in range(steps):
        # After two steps the world changes: the order of batches knows nothing of it.
        world = ranks if step < 2 else 4
        rows = order.rows(step)
        (shares,) = deal(np.ones(24), world, 1)
        assert [len(share) for share in shares] == [24 // world] * world
        taken = np.concatenate(shares).tolist()
        assert sorted(taken) == list(range(24))  # none left out, none twice
        seen.update((ref.dataset, ref.row) for place in taken for ref in rows[place])
    assert len(seen) == total  # every row of both, within one epoch
    # What fills the last batch begins the next epoch; before it no row came again.
    assert sum(count - 1 for count in seen.values()) == 24 * steps - total


def test_an_order_can_be_sent_to_a_worker(indexes: dict[str, Index]) -> None:
    order = packed(indexes)
    order.rows(5)
    assert pickle.loads(pickle.dumps(order)).rows(9) == order.rows(9)


def test_seeds_of_samples_follow_visits(indexes: dict[str, Index]) -> None:
    order = packed(indexes)
    refs = [
        ref for step in range(2 * order.steps_per_epoch) for row in order.rows(step) for ref in row
    ]
    assert len(set(refs)) == len(
        refs
    )  # a second visit is another reference, so that augmentation differs
    seeds = {order.sample(ref).seed for ref in refs[:300]}
    assert len(seeds) == 300
    assert packed(indexes).sample(refs[0]).seed == order.sample(refs[0]).seed


@pytest.mark.parametrize("bucket", ["none", "frames"])
def test_single_samples(indexes: dict[str, Index], bucket: str) -> None:
    def order() -> SampleOrder:
        return SampleOrder(indexes, WEIGHTS, 8, 0, bucket=bucket)  # type: ignore[arg-type]

    walked = [order().rows(step) for step in range(0, 330, 33)]
    one = order()
    assert [one.rows(step) for step in range(0, 330, 33)] == walked
    per_epoch = one.mix.epoch_size(0)
    assert one.steps_per_epoch == -(-per_epoch // 8)
    refs = [ref for step in range(4 * one.steps_per_epoch) for ref in one.rows(step)]
    assert len(set(refs)) == len(refs)
    seen = Counter((ref.dataset, ref.row) for ref in refs)
    assert min(seen[("big", place)] for place in range(700)) >= 3


def test_buckets_put_like_lengths_together(indexes: dict[str, Index]) -> None:
    def spread(bucket: str) -> float:
        order = SampleOrder(indexes, WEIGHTS, 8, 0, bucket=bucket)  # type: ignore[arg-type]
        return float(
            np.mean(
                [
                    np.std([indexes[ref.dataset].frames[ref.row] for ref in order.rows(step)])
                    for step in range(100)
                ]
            )
        )

    assert spread("frames") < 0.2 * spread("none")


def test_orders_of_a_stage(corpus: Corpus) -> None:
    spec = StageSpec(
        objective="next_token",
        data={"look": 1.0, "talk": 0.5},
        trainable={"llm": 1e-3},
        steps=1,
        batch=BatchSpec(global_batch_size=2, seq_len=128),
    )
    train = packed_order(corpus, spec, seed=0)
    assert train is not None
    assert {ref.dataset for step in range(8) for row in train.rows(step) for ref in row} == {
        "look",
        "talk",
    }
    dev = packed_order(corpus, spec, seed=0, split="dev")
    assert dev is not None
    assert all(name.startswith("look/dev/") for name in dev.ids(0))
    assert packed_order(corpus, spec, seed=0, split="test") is None
    assert sample_order(corpus, spec, seed=0, split="dev").ids(0)[0].startswith("look/dev/")
    with raises_code(DataError, "VT-DATA-007", "nothing/train"):
        packed_order(corpus, spec.model_copy(update={"data": {"nothing": 1.0}}), seed=0)


@pytest.mark.parametrize("window", [7, 40, 10_000])
def test_grouped_batches_hold_one_modality_and_lose_nothing(tmp_path: Path, window: int) -> None:
    lengths = mixed_lengths(103)
    indexes = {"all": index_of(tmp_path, "all", lengths)}
    order = PackedOrder(
        indexes, {"all": 1.0}, 8, BUDGETS, 3, window=window, packing=False, group=True
    )
    steps = 2 * 103 // 8  # almost two epochs, in windows that end inside batches
    batches = [[row[0].row for row in order.rows(step)] for step in range(steps)]
    seen = Counter(row for batch in batches for row in batch)
    assert set(seen.values()) <= {1, 2}
    first = [row for batch in batches for row in batch][:103]
    assert sorted(first) == list(range(103))
    pure = [batch for batch in batches if len({lengths[row, 1] > 0 for row in batch}) == 1]
    for batch in pure:
        tokens = [int(lengths[row, 0]) for row in batch]
        assert tokens == sorted(tokens, reverse=True) or window < 10_000
    if window == 10_000:  # a batch of leftovers an epoch, and one that begins the next
        assert len(pure) >= steps - 4
        assert len({lengths[batch[0], 1] > 0 for batch in pure}) == 2
    again = PackedOrder(
        indexes, {"all": 1.0}, 8, BUDGETS, 3, window=window, packing=False, group=True
    )
    assert [[row[0].row for row in again.rows(step)] for step in (steps - 1, 0)] == [
        batches[-1],
        batches[0],
    ]


def test_without_packing_batches_are_the_shuffled_stream_cut_into_pieces(corpus: Corpus) -> None:
    spec = StageSpec(
        objective="next_token",
        data={"look": 1.0, "talk": 0.5},
        trainable={"llm": 1e-3},
        steps=1,
        batch=BatchSpec(global_batch_size=5, seq_len=128, packing=False),
    )
    order = packed_order(corpus, spec, seed=3)
    assert order is not None
    sizes = {name: len(corpus.index(name, "train")) for name in ("look", "talk")}
    # The stream, written out without orders and windows: whole epochs, one after the other.
    mix = Mix(sizes, {"look": 1.0, "talk": 0.5}, 3)
    stream = [
        (mix.names[dataset], row)
        for epoch in range(4)
        for whole in [mix.window(epoch, 0, mix.epoch_size(epoch))]
        for dataset, row in zip(whole.dataset.tolist(), whole.index.tolist(), strict=True)
    ]
    batches = [order.rows(step) for step in range(len(stream) // 5)]
    assert all(len(row) == 1 for batch in batches for row in batch)
    assert [(row[0].dataset, row[0].row) for batch in batches for row in batch] == stream[
        : len(batches) * 5
    ]
    first = Counter(stream[: mix.epoch_size(0)])
    assert {name for name in first if name[0] == "look"} == {
        ("look", row) for row in range(sizes["look"])
    }
    assert max(first.values()) == 1
    assert order.steps_per_epoch == -(-mix.epoch_size(0) // 5)
    packed_spec = spec.model_copy(update={"batch": BatchSpec(global_batch_size=5, seq_len=128)})
    assert packed_order(corpus, packed_spec, seed=3).digest != order.digest
    tight = spec.batch.model_copy(update={"max_tiles": 1, "seq_len": 16})
    with pytest.raises(DataError) as caught:
        packed_order(corpus, spec.model_copy(update={"batch": tight}), seed=3).rows(0)
    assert caught.value.code == "VT-DATA-019"


@pytest.mark.parametrize("step", [0, 7])
def test_costs_of_rows_are_those_of_their_samples(indexes: dict[str, Index], step: int) -> None:
    costs = Costs(token=1.0, tile=50.0, frame=0.5, pair=0.01)
    order = PackedOrder(indexes, WEIGHTS, 8, BUDGETS, seed=5, window=150, costs=costs)
    for row, cost in zip(order.rows(step), order.costs(step), strict=True):
        lengths = np.stack([indexes[ref.dataset].lengths[ref.row] for ref in row])
        assert cost == pytest.approx(costs.of(lengths).sum())
    plain = PackedOrder(indexes, WEIGHTS, 8, BUDGETS, seed=5, window=150)
    assert order.digest == plain.digest
    assert order.rows(step) == plain.rows(step)
