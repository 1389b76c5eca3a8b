"""Vector quantisers against hand-computed numbers."""

from __future__ import annotations

import pytest
import torch

from vita_train.models.codec.quantizer import EmaQuantizer, LearnedQuantizer, nearest


def test_nearest_is_the_smallest_distance() -> None:
    torch.manual_seed(0)
    vectors, book = torch.randn(3, 7, 4), torch.randn(11, 4)
    wanted = torch.cdist(vectors, book.expand(3, -1, -1)).argmin(2)
    assert torch.equal(nearest(vectors, book), wanted)


@pytest.mark.parametrize("kind", [LearnedQuantizer, EmaQuantizer])
def test_gradient_passes_straight_through(
    kind: type[LearnedQuantizer] | type[EmaQuantizer],
) -> None:
    quantizer = kind(5, 3)
    vectors = torch.randn(1, 4, 3, requires_grad=True)
    quantized = quantizer(vectors)
    torch.testing.assert_close(quantized.vectors, quantizer.lookup(quantized.codes))
    weights = torch.randn_like(vectors)
    (quantized.vectors * weights).sum().backward()
    torch.testing.assert_close(vectors.grad, weights)


def test_learned_loss_by_hand() -> None:
    """One vector (1, 1), codes (0, 0) and (9, 9): distance 1 in each of two numbers, so 1 x 1.0 + 1
    x 0.25."""
    quantizer = LearnedQuantizer(2, 2)
    quantizer.codebook.data = torch.tensor([[0.0, 0.0], [9.0, 9.0]])
    vectors = torch.ones(1, 1, 2, requires_grad=True)
    quantized = quantizer(vectors)
    assert quantized.loss.item() == pytest.approx(1.25)
    quantized.loss.backward()
    torch.testing.assert_close(quantizer.codebook.grad, torch.tensor([[-1.0, -1.0], [0.0, 0.0]]))
    torch.testing.assert_close(vectors.grad, torch.full((1, 1, 2), 0.25))


def test_moving_average_by_hand() -> None:
    """Decay 0.5; code 0 at 0 with usage 2, code 1 at 10 with usage 2; vectors 1, 3 choose code 0
    and 8 chooses code 1.

    n = 0.5 * (2, 2) + 0.5 * (2, 1) = (2, 1.5); s = 0.5 * (0, 20) + 0.5 * (4, 8) = (2, 14); codes
    (1, 9.333).
    """
    quantizer = EmaQuantizer(2, 1, decay=0.5)
    quantizer.codebook.copy_(torch.tensor([[0.0], [10.0]]))
    quantizer.usage.fill_(2.0)
    quantizer.sums.copy_(torch.tensor([[0.0], [20.0]]))
    quantizer(torch.tensor([[[1.0], [3.0], [8.0]]]))
    assert quantizer.codebook[0].item() == 0.0  # nothing moves before the step
    quantizer.after_step()
    torch.testing.assert_close(quantizer.usage, torch.tensor([2.0, 1.5]))
    torch.testing.assert_close(quantizer.codebook, torch.tensor([[1.0], [14 / 1.5]]))


def test_accumulation_equals_one_batch() -> None:
    vectors = torch.randn(4, 6, 3)
    whole, parts = EmaQuantizer(4, 3), EmaQuantizer(4, 3)
    parts.load_state_dict(whole.state_dict())
    for quantizer in (whole, parts):
        quantizer.start(vectors)
    whole(vectors)
    for part in vectors.split(1):
        parts(part)
    whole.after_step()
    parts.after_step()
    torch.testing.assert_close(whole.codebook, parts.codebook)


def test_dead_code_restarts_on_a_vector_of_the_batch() -> None:
    quantizer = EmaQuantizer(3, 2, decay=0.5)
    quantizer.codebook.copy_(torch.tensor([[0.0, 0.0], [1.0, 1.0], [1e3, 1e3]]))
    quantizer.usage.fill_(1.0)
    quantizer.sums.copy_(quantizer.codebook)
    vectors = torch.rand(1, 50, 2)
    for _ in range(6):
        quantizer(vectors)
        quantizer.after_step()
    assert quantizer.codebook.max() < 2
    assert len(nearest(vectors, quantizer.codebook).unique()) == 3


def test_no_update_without_training_or_gradients() -> None:
    quantizer = EmaQuantizer(4, 2)
    before = quantizer.codebook.clone()
    with torch.no_grad():
        quantizer(torch.randn(1, 9, 2))
    quantizer.eval()(torch.randn(1, 9, 2))
    quantizer.after_step()
    torch.testing.assert_close(quantizer.codebook, before)
    assert quantizer.updates == 0


def test_resumed_training_restarts_the_same_codes() -> None:
    torch.manual_seed(0)
    batches = torch.randn(6, 1, 8, 2)
    straight = EmaQuantizer(16, 2)
    straight.start(batches[0])
    resumed = EmaQuantizer(16, 2)
    for step, batch in enumerate(batches):
        if step == 3:
            resumed.load_state_dict(straight.state_dict())
        for quantizer in (straight, resumed) if step >= 3 else (straight,):
            quantizer(batch)
            quantizer.after_step()
    assert torch.equal(straight.codebook, resumed.codebook)
