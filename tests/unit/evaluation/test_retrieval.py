"""A model that uses the image finds its caption; one that does not is at chance and loses nothing
when blind."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vita_train.evaluation.measures import EvalContext
from vita_train.evaluation.retrieval import (
    CANDIDATES,
    caption_losses,
    retrieval_measures,
    with_reply_of,
)
from vita_train.evaluation.scoring import reply_losses

CPU = torch.device("cpu")


def test_a_seeing_model_finds_every_caption_however_common() -> None:
    losses = (
        torch.full((3, 10, 10), 20.0) + torch.arange(10.0) * 3
    )  # some captions are short, hence cheap
    losses -= 2.0 * torch.eye(10)
    values = retrieval_measures(losses, torch.full((3, 10), 10.0))
    assert values["retrieval"] == 1.0
    assert values["loss_blind"] == pytest.approx((20.0 + 13.5) / 10)


def test_a_model_that_ignores_pictures_is_near_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    losses = torch.rand(1, 1, 10, generator=generator).expand(200, 10, 10) + 1e-3 * torch.rand(
        200, 10, 10, generator=generator
    )
    assert retrieval_measures(losses, torch.ones(200, 10))["retrieval"] == pytest.approx(
        0.1, abs=0.03
    )


def test_the_diagonal_is_the_ordinary_loss(world: Any) -> None:
    omni = EvalContext(world.recipe, world.corpus, world.modules, CPU).omni
    index = world.corpus.index("caption", "test")
    samples = [index.sample(place) for place in range(CANDIDATES + 3)]
    losses, tokens = caption_losses(omni, samples, device=CPU)
    assert losses.shape == (1, CANDIDATES, CANDIDATES)
    plain = reply_losses(omni, samples[:CANDIDATES], device=CPU)
    assert torch.allclose(losses[0].diagonal(), plain[:, 0], rtol=1e-4)
    assert torch.equal(tokens[0], plain[:, 1])


def test_a_borrowed_caption_keeps_the_picture(world: Any) -> None:
    index = world.corpus.index("caption", "test")
    mixed = with_reply_of(index.sample(0), index.sample(5))
    assert mixed.images == index.sample(0).images
    assert (
        mixed.ids[mixed.spans[0][0] :].tolist()
        == index.sample(5).ids[index.sample(5).spans[0][0] :].tolist()
    )
    assert mixed.tokens == len(mixed.expanded()[0])
