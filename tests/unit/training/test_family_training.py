"""A tiny model of every family learns, goes on from its checkpoint, and ends its replies by
itself."""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.helpers.family_tokenizers import FAMILIES
from tests.helpers.family_world import STEPS, family_recipe, talk
from vita_train.data.index.corpus import Corpus
from vita_train.data.prepare.run import prepare
from vita_train.evaluation.measures import EvalContext, measure, state_marks, written
from vita_train.evaluation.scoring import score_replies
from vita_train.evaluation.tasks import measures_for
from vita_train.models.build import build_modules
from vita_train.recipe.schema import Recipe
from vita_train.recipe.special_ids import AUDIO_ID
from vita_train.storage.local import LocalStore
from vita_train.training.counters import Counters
from vita_train.training.engines.base import EngineContext
from vita_train.training.engines.factory import build_engine
from vita_train.training.freeze import apply_trainable
from vita_train.training.objectives.base import StageContext
from vita_train.training.objectives.next_token import NextTokenObjective
from vita_train.training.observability.run_log import RunLog
from vita_train.training.parallel.distributed import World
from vita_train.training.resume import Checkpoints
from vita_train.training.step_plan import StepPlan
from vita_train.training.trainer import Loop
from vita_train.training.watchdog import Watchdog

#: The families that every run of the tests trains: the default one, and one of experts.
ALWAYS = ("qwen2p5_instruct", "mixtral-8x7b")
WORLD = World(0, 1, 0, torch.device("cpu"))


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return talk(tmp_path_factory.mktemp("talk"))


@dataclass
class Trained:
    recipe: Recipe
    corpus: Corpus
    modules: nn.ModuleDict
    events: list[dict[str, Any]]


def objective_of(recipe: Recipe, corpus: Corpus) -> NextTokenObjective:
    spec = recipe.stages["2.2"]
    context = StageContext(
        recipe=recipe,
        stage="2.2",
        spec=spec,
        corpus=corpus,
        device=WORLD.device,
        dtype=torch.float32,
        rank=0,
        world=1,
        seed=0,
    )
    objective = NextTokenObjective(
        context, build_modules(recipe.model, NextTokenObjective.modules_used(spec, corpus))
    )
    apply_trainable(objective, spec.trainable)
    return objective


def train(recipe: Recipe, corpus: Corpus, root: Path) -> Trained:
    """Train a stage by the real loop, from its newest checkpoint if there is one."""
    spec, stage = recipe.stages["2.2"], root / "run" / "2.2"
    objective = objective_of(recipe, corpus)
    engine = build_engine(objective, EngineContext(spec, WORLD, torch.float32))
    checkpoints = Checkpoints(LocalStore(root), "run/2.2", WORLD, "digest", keep_last=4)
    counters = Counters(**(checkpoints.restore(engine) or {}))
    checkpoints.begin()
    run_log = RunLog(stage, STEPS)
    run_log.rewind(counters.step)
    with contextlib.closing(Watchdog(600, lambda _: None)) as watchdog:
        Loop(
            objective,
            engine,
            spec,
            WORLD,
            0,
            StepPlan(spec, STEPS),
            objective.order(),
            run_log,
            checkpoints,
            watchdog,
        ).run(counters)
    run_log.close()
    events = [json.loads(line) for line in (stage / "events.jsonl").read_text().splitlines()]
    return Trained(recipe, corpus, nn.ModuleDict(objective.model_modules()).eval(), events)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VITA_TRAIN_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, marks=[] if family in ALWAYS else [pytest.mark.slow])
        for family in FAMILIES
    ],
)
def test_a_tiny_model_learns_resumes_and_ends_its_replies(
    family: str, registry: Path, cache: Path
) -> None:
    recipe = family_recipe(family)
    prepare(recipe, registry, cache / "corpus")
    corpus = Corpus.open(cache / "corpus")
    whole = train(recipe, corpus, cache / "store")
    losses = [event["loss"] for event in whole.events]
    assert len(losses) == STEPS
    assert losses[-1] < losses[0] / 5
    # As if it had been killed half way.
    (cache / "store" / "run" / "2.2" / "committed" / f"step-{STEPS:08}.json").unlink()
    resumed = train(recipe, corpus, cache / "store")
    assert [event["loss"] for event in resumed.events] == losses
    state = whole.modules.state_dict()
    assert all(
        torch.equal(tensor, state[name]) for name, tensor in resumed.modules.state_dict().items()
    )
    # Replies to what was learnt end by themselves, long before they would be cut.
    index = corpus.index("talk", "test")
    samples = [index.sample(place) for place in range(len(index))]
    replies = written(EvalContext(recipe, corpus, resumed.modules, WORLD.device), samples)
    assert replies[0] == "red."
    assert set(replies) <= {sample.text for sample in samples}
    assert {"balance_loss", "state_loss"} & set(whole.events[0]) == {
        "mixtral-8x7b": {"balance_loss"},
        "qwen2p5_fo_instruct": {"state_loss"},
    }.get(family, set())
    if family == "qwen2p5_fo_instruct":
        assert whole.events[-1]["state_loss"] < whole.events[0]["state_loss"] / 2
        metrics = measure(recipe, corpus, resumed.modules, ["talk.test.state_mark"])
        assert metrics == {"talk.test.state_mark": 1.0}
    elif family == "mixtral-8x7b":
        assert whole.events[-1]["balance_loss"] == pytest.approx(2, abs=0.5)


def one_batch(objective: NextTokenObjective, *, clips: bool = True) -> Any:
    """The first global batch, or its rows without audio."""
    order = objective.order()
    rows = [
        [sample for sample in order.load(row) if clips or not sample.audios]
        for row in order.rows(0)
    ]
    return objective.collate([row for row in rows if row], seed=0)


def test_the_balance_loss_counts_only_while_experts_train(registry: Path, cache: Path) -> None:
    recipe = family_recipe("mixtral-8x7b")
    prepare(recipe, registry, cache / "corpus")
    corpus = Corpus.open(cache / "corpus")
    objective = objective_of(recipe, corpus)
    batch = one_batch(objective)
    trained, measured = objective(batch), objective.eval()(batch)
    total, real = trained.metrics["balance_loss"]
    assert real == float((batch.document_ids > 0).sum())
    added = trained.loss_sum.item() - measured.loss_sum.item()
    assert added == pytest.approx(0.02 * total.item() / real * trained.count, rel=1e-3)
    assert measured.metrics["balance_loss"] == trained.metrics["balance_loss"]
    # A frozen language model has no routers to balance.
    apply_trainable(objective, {"audio_adapter": 1e-3, "audio_encoder": 1e-3})
    assert objective(batch).loss_sum.item() == measured.loss_sum.item()
    assert objective.flops_per_token() < 6 * sum(
        parameter.numel() for parameter in objective.parameters()
    )


def test_the_state_head_learns_from_clips_and_from_nothing_else(
    registry: Path, cache: Path
) -> None:
    recipe = family_recipe("qwen2p5_fo_instruct")
    prepare(recipe, registry, cache / "corpus")
    corpus = Corpus.open(cache / "corpus")
    objective = objective_of(recipe, corpus)
    batch = one_batch(objective)
    nn.init.zeros_(objective.state_head.weight)
    nn.init.zeros_(objective.state_head.bias)
    output = objective(batch)
    labels = batch.states[batch.states >= 0]
    weight = float((1 + 4 * labels).sum())  # class 0 counts one, class 1 five
    assert len(labels) == batch.fbank.shape[0]
    assert output.metrics["state_loss"][0].item() == pytest.approx(weight * math.log(3), rel=1e-5)
    assert output.metrics["state_loss"][1].item() == weight
    assert (batch.input_ids[batch.states >= 0] == AUDIO_ID).all()
    assert (batch.labels[batch.states >= 0] == -100).all()
    output.loss_sum.backward()
    assert objective.state_head.weight.grad.abs().sum() > 0
    # Without audio there is nothing to learn, but the head takes part, as ranks with audio expect.
    objective.zero_grad()
    quiet = one_batch(objective, clips=False)
    output = objective(quiet)
    output.loss_sum.backward()
    assert quiet.states is None
    assert not objective.state_head.weight.grad.any()
    assert output.metrics.keys() == {"accuracy", "state_loss", "state_accuracy"}


def test_digits_open_replies_of_a_tokenizer_without_glyphs(registry: Path, cache: Path) -> None:
    recipe = family_recipe("llama3-8b", "data.state_mode=digit")
    prepare(recipe, registry, cache / "corpus")
    corpus = Corpus.open(cache / "corpus")
    index = corpus.index("talk", "test")
    samples = [index.sample(place) for place in range(len(index))]
    assert [corpus.tokenizer.decode(sample.ids[slice(*sample.spans[0])]) for sample in samples] == [
        f"<{digit}>{sample.text}<|eot_id|>"
        for digit, sample in zip((3, 3, 1, 1, 2, 2), samples, strict=True)
    ]
    context = EvalContext(
        recipe,
        corpus,
        build_modules(
            recipe.model, NextTokenObjective.modules_used(recipe.stages["2.2"], corpus)
        ).eval(),
        WORLD.device,
    )
    scored = score_replies(context.omni, samples, marks=state_marks(context), device=WORLD.device)
    assert [reply.mark for replies in scored for reply in replies] == [False] * 6
    assert "talk.test.state_mark" in measures_for(recipe, corpus, "2.2")
