"""Reading a true reply in one pass says exactly what generating would: whether the model's own
reply is that one."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vita_train.data.index.sample import Sample
from vita_train.data.prepare.tokenizer import control_id
from vita_train.evaluation.batches import reply_batches
from vita_train.evaluation.generation import prompt_of
from vita_train.evaluation.measures import EvalContext, state_marks
from vita_train.evaluation.scoring import reply_losses, score_replies
from vita_train.inference.generate import generate_ids
from vita_train.models.omni import Omni

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def half_taught(world: Any) -> tuple[Omni, EvalContext, list[Sample]]:
    """A model that has learnt some of the typed answers by heart and not the others."""
    modules = copy.deepcopy(world.modules)
    context = EvalContext(world.recipe, world.corpus, modules, CPU)
    index = world.corpus.index("speech_qa", "test_typed")
    samples = [index.sample(place) for place in range(len(index))]
    omni = Omni(modules)
    optimizer = torch.optim.AdamW(modules["llm"].parameters(), lr=3e-3)
    batches = list(reply_batches(samples[:12]))
    for _ in range(60):
        for _, batch in batches:
            hidden, labels = omni(batch)[:, :-1], batch.labels[:, 1:]
            loss = F.cross_entropy(
                F.linear(hidden[labels >= 0], omni.head_weight), labels[labels >= 0]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    modules.eval()
    return omni, context, samples


def generated(omni: Omni, bench: EvalContext, sample: Sample) -> list[int]:
    """The model's own reply after the true state mark, with the end token if it comes."""
    prompt = prompt_of(sample)
    mark = torch.tensor([int(sample.ids[sample.spans[-1][0]])])
    prompt = replace(prompt, input_ids=torch.cat([prompt.input_ids, mark]))
    end = control_id(bench.corpus.tokenizer, "<|im_end|>")
    made = [ids[0] for ids in generate_ids(omni, [prompt], stop_ids={end}, max_new_tokens=12)]
    return [*made, end] if len(made) < 12 else made


def test_exact_in_one_pass_is_exact_when_generated(
    half_taught: tuple[Omni, EvalContext, list[Sample]],
) -> None:
    omni, context, samples = half_taught
    scored = score_replies(omni, samples, marks=state_marks(context), device=CPU)
    read = [replies[0].exact for replies in scored]
    spoken = [
        generated(omni, context, sample) == sample.ids[sample.spans[-1][0] + 1 :].tolist()
        for sample in samples
    ]
    assert read == spoken
    assert 0 < sum(read) < len(read), "both outcomes occur, or the comparison shows nothing"


@pytest.mark.parametrize(
    ("dataset", "split"), [("caption", "test"), ("speech_qa", "test"), ("textqa", "test")]
)
def test_the_models_own_reply_is_exact_and_one_other_token_is_not(
    world: Any, dataset: str, split: str
) -> None:
    context = EvalContext(world.recipe, world.corpus, world.modules, CPU)
    sample = world.corpus.index(dataset, split).sample(3)
    own = generated(context.omni, context, sample)[:5]
    start = sample.spans[-1][0] + 1
    kept = sample.ids[:start]

    def with_reply(reply: list[int]) -> Sample:
        ids = np.concatenate([kept, np.asarray(reply, dtype=np.int32)])
        tokens = len(ids) + int(sample.runs.sum()) - len(sample.runs)
        return replace(sample, ids=ids, spans=[(start - 1, len(ids))], tokens=tokens)

    changed = [*own[:2], (own[2] + 1) % 300 + 10, *own[3:]]
    marks = state_marks(context)
    scored = score_replies(
        context.omni, [with_reply(own), with_reply(changed)], marks=marks, device=CPU
    )
    assert [replies[0].exact for replies in scored] == [True, False]


def test_a_conversation_has_a_reply_for_each_round_and_company_changes_nothing(world: Any) -> None:
    context = EvalContext(world.recipe, world.corpus, world.modules, CPU)
    samples = [
        world.corpus.index(name, "test").sample(place)
        for name in ("textqa", "caption", "speech_qa", "negative")
        for place in range(5)
    ]
    marks = state_marks(context)
    together = score_replies(context.omni, samples, marks=marks, device=CPU)
    for sample, replies in zip(samples, together, strict=True):
        assert len(replies) == len(sample.spans)
        assert [reply.tokens for reply in replies] == [end - start for start, end in sample.spans]
        [alone] = score_replies(context.omni, [sample], marks=marks, device=CPU)
        assert [reply.exact for reply in replies] == [reply.exact for reply in alone]
        assert [reply.loss_sum for reply in replies] == pytest.approx(
            [reply.loss_sum for reply in alone], rel=1e-4
        )
    assert len(together[0]) == 2


def test_losses_agree_with_the_training_loss(world: Any) -> None:
    context = EvalContext(world.recipe, world.corpus, world.modules, CPU)
    samples = [world.corpus.index("caption", "test").sample(place) for place in range(6)]
    losses = reply_losses(context.omni, samples, device=CPU)
    for sample, (loss, tokens) in zip(samples, losses.tolist(), strict=True):
        [(_, batch)] = reply_batches([sample])
        logits = F.linear(context.omni(batch), context.omni.head_weight)[0, :-1]
        wanted = F.cross_entropy(
            logits.detach(), batch.labels[0, 1:], ignore_index=-100, reduction="sum"
        )
        assert loss == pytest.approx(float(wanted), rel=1e-5)
        assert tokens == sample.supervised


def test_the_state_mark_is_read_apart(world: Any) -> None:
    context = EvalContext(world.recipe, world.corpus, world.modules, CPU)
    sample = world.corpus.index("textqa", "test").sample(0)
    with_marks = score_replies(context.omni, [sample], marks=state_marks(context), device=CPU)[0]
    without = score_replies(context.omni, [sample], marks=frozenset(), device=CPU)[0]
    assert all(reply.mark is not None for reply in with_marks)
    assert all(reply.mark is None for reply in without)
    assert [reply.loss_sum for reply in with_marks] == [reply.loss_sum for reply in without]
