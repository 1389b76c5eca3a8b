"""The recogniser's objective against independent computations, and that it learns."""

from __future__ import annotations

import math
from itertools import product
from types import SimpleNamespace
from typing import Any

import jiwer
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.no_source import NO_SOURCE
from tests.helpers.toy import toy_context
from vita_train.data.prepare.ctc_vocab import CtcVocab
from vita_train.models.build import build_modules
from vita_train.recipe.schema import Recipe
from vita_train.training.engines.base import EngineContext
from vita_train.training.engines.factory import build_engine
from vita_train.training.freeze import apply_trainable
from vita_train.training.objectives.ctc import (
    CtcObjective,
    edit_distance,
    feature_statistics,
    greedy_decode,
)
from vita_train.training.parallel.distributed import World

UNITS = CtcVocab.from_texts(["red green blue one two"], "word")
RECIPE = Recipe.model_validate(
    {
        "name": "toy",
        "model": {
            "dtype": "float32",
            "audio_encoder": {
                "width": 32,
                "conv_channels": 8,
                "num_layers": 1,
                "num_heads": 2,
                "intermediate_size": 64,
                "dropout": 0.0,
                "dynamic_chunks": False,
                "relative_shift": True,
                "max_positions": 200,
            },
            "ctc_head": {"vocab": "word"},
        },
        "data": NO_SOURCE,
        "stages": {
            "2.1a": {
                "objective": "ctc",
                "data": {"asr": 1.0},
                "steps": 60,
                "options": {"augment": False},
                "trainable": {"audio_encoder": 5e-3, "ctc_head": 5e-3},
            }
        },
    }
)


def sample(index: int, split: str = "train") -> Any:
    """A clip whose words are bands of energy at places of their own."""
    generator = torch.Generator().manual_seed(index)
    words = [
        UNITS.names[int(unit)] for unit in torch.randint(2, len(UNITS), (3,), generator=generator)
    ]
    fbank = torch.randn(3 * 24, 80, generator=generator) * 0.3 - 8
    for place, word in enumerate(words):
        band = 14 * (UNITS.names.index(word) - 2)
        fbank[24 * place + 4 : 24 * place + 20, band : band + 12] += 6
    return SimpleNamespace(
        id=f"asr/{split}/{index}", split=split, text=" ".join(words), load_fbank=lambda clip: fbank
    )


class Order:
    """Eight samples a step."""

    steps_per_epoch = 5

    def rows(self, step: int) -> list[int]:
        return list(range(8 * step, 8 * step + 8))

    def load(self, row: int) -> Any:
        return sample(row)


def objective() -> CtcObjective:
    modules = build_modules(
        RECIPE.model, ("audio_encoder", "ctc_head"), ctc_vocab_size=len(UNITS), seed=0
    )
    context = toy_context(RECIPE, "2.1a")
    object.__setattr__(context, "corpus", SimpleNamespace(ctc_vocab=UNITS))
    return CtcObjective(context, modules)


def test_statistics_are_those_of_the_first_samples() -> None:
    mean, istd = feature_statistics(sample(index) for index in range(16))
    everything = torch.cat([sample(index).load_fbank(0) for index in range(16)]).double()
    assert torch.allclose(mean.double(), everything.mean(0), atol=1e-5)
    assert torch.allclose(istd.double(), 1 / everything.std(0, correction=0), rtol=1e-4)
    made = objective()
    made.before_training(Order())
    first = made.audio_encoder.global_cmvn.mean.clone()
    made.before_training(SimpleNamespace(steps_per_epoch=0))
    assert torch.equal(made.audio_encoder.global_cmvn.mean, first)


def test_loss_is_the_likelihood_of_all_alignments() -> None:
    made = objective().eval()
    batch = made.collate([sample(0)], seed=0)
    batch.targets, batch.target_lengths = torch.tensor([2, 3]), torch.tensor([2])
    batch.fbank, batch.fbank_lengths = batch.fbank[:, :19], torch.tensor([19])
    frames, lengths = made.audio_encoder(batch.fbank, batch.fbank_lengths)
    probabilities = made.ctc_head(frames)[0].detach().double().softmax(-1)[: int(lengths)]
    total = 0.0
    for path in product(range(len(UNITS)), repeat=len(probabilities)):
        joined = [unit for place, unit in enumerate(path) if place == 0 or unit != path[place - 1]]
        if [unit for unit in joined if unit] == [2, 3]:
            total += math.prod(float(probabilities[place, unit]) for place, unit in enumerate(path))
    assert float(made(batch).loss_sum.detach()) == pytest.approx(-math.log(total), rel=1e-4)
    assert made(batch).count == made.weight(batch) == 2


def test_greedy_decoding_joins_repeats_and_drops_blanks() -> None:
    path = torch.tensor([[2, 2, 0, 2, 3, 3, 0, 4]])
    log_probs = torch.nn.functional.one_hot(path, 6).float()
    assert greedy_decode(log_probs, torch.tensor([7])) == [[2, 2, 3]]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=8), st.lists(st.integers(0, 3), max_size=8))
def test_edit_distance_equals_jiwer(a: list[int], b: list[int]) -> None:
    words = jiwer.process_words(" ".join(map(str, a)), " ".join(map(str, b)))
    assert edit_distance(a, b) == words.substitutions + words.deletions + words.insertions


def test_it_learns_to_read_bands() -> None:
    made = objective()
    made.before_training(Order())
    spec = RECIPE.stages["2.1a"]
    apply_trainable(made, spec.trainable)
    engine = build_engine(
        made, EngineContext(spec, World(0, 1, 0, torch.device("cpu")), torch.float32)
    )
    for step in range(40):
        batch = made.collate(
            [sample(index) for index in range(8 * (step % 10), 8 * (step % 10) + 8)], seed=step
        )
        engine.forward_backward(batch, "main", 1 / made.weight(batch), last=True)
        engine.step("main", 1.0)
    unseen = made.collate([sample(index, "dev") for index in range(900, 916)], seed=0)
    errors, words = engine.evaluate(unseen).metrics["errors"]
    assert errors / words < 0.2
