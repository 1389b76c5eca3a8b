import pytest
import torch
from torch.nn import functional as F

from tests.helpers.omni_batches import document, pack
from vita_train.models.language.loss import chunked_cross_entropy, positions_at_a_time
from vita_train.models.omni import Omni


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_equals_plain_cross_entropy_with_gradients(chunk: int) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(3, 20, 16, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(50, 16, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 50, (3, 20))
    labels[torch.rand(3, 20) < 0.4] = -100
    loss_sum, count, correct = chunked_cross_entropy(hidden, weight, labels, chunk)
    gradients = torch.autograd.grad(loss_sum, (hidden, weight))
    logits = hidden[:, :-1] @ weight.T
    plain = F.cross_entropy(logits.flatten(0, 1).float(), labels[:, 1:].flatten(), reduction="sum")
    torch.testing.assert_close(loss_sum, plain, atol=1e-6, rtol=1e-6)
    for ours, theirs in zip(gradients, torch.autograd.grad(plain, (hidden, weight)), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
    assert count == int((labels[:, 1:] != -100).sum())
    assert int(correct) == int((logits.argmax(-1) == labels[:, 1:]).sum())


def test_nothing_supervised_is_zero_with_a_gradient() -> None:
    hidden, weight = torch.randn(1, 4, 8, requires_grad=True), torch.randn(9, 8, requires_grad=True)
    loss_sum, count, correct = chunked_cross_entropy(hidden, weight, torch.full((1, 4), -100))
    loss_sum.backward()
    assert (loss_sum.item(), count, int(correct)) == (0.0, 0, 0)
    assert not hidden.grad.any()
    assert not weight.grad.any()


def test_a_documents_first_position_is_never_supervised_across_the_border(omni: Omni) -> None:
    """Labels as preparation makes them: the first position of each document is -100."""
    batch = pack([[document(1, 12), document(2, 9)]])
    starts = batch.position_ids == 0
    assert (batch.labels[starts] == -100).all()
    hidden = omni(batch)
    first_doc = hidden[:, :12]
    first_doc.retain_grad()
    joined = torch.cat((first_doc, hidden[:, 12:]), 1)
    only_second = batch.labels.clone()
    only_second[:, :12] = -100
    chunked_cross_entropy(joined, omni.head_weight, only_second).loss_sum.backward()
    assert not first_doc.grad.any()


def test_only_one_chunk_of_logits_is_kept_for_backward() -> None:
    hidden, weight = (
        torch.randn(1, 65, 8, requires_grad=True),
        torch.randn(40, 8, requires_grad=True),
    )
    saved = []

    def record(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        chunked_cross_entropy(hidden, weight, torch.randint(0, 40, (1, 65)), 16)
    assert not [shape for shape in saved if 40 in shape and shape != (40, 8)]


def test_fewer_positions_at_a_time_of_a_large_vocabulary() -> None:
    assert positions_at_a_time(152_064) == 512
    assert positions_at_a_time(4000) == 2048
    assert positions_at_a_time(10**9) == 1
